"""Sampling: microseconds per batch, ours beside the limit and the peers, all memories full."""

from collections.abc import Iterable

from contenders import Contender, check, make_contenders
from limit import Limit
from timing import interleaved
from workloads import Workload

BATCH_SIZES = (32, 256, 1024)


def measure(workload: Workload, rounds: int) -> dict[int, dict[str, float]]:
    """Batch size to contender to median seconds per batch."""
    limit, contenders = Limit(workload), make_contenders(workload)
    fill([limit, *contenders], workload)
    for contender in contenders:
        check(contender, workload)
    return {batch_size: _measure(limit, contenders, batch_size, rounds) for batch_size in BATCH_SIZES}


def _measure(limit: Limit, contenders: list[Contender], batch_size: int, rounds: int) -> dict[str, float]:
    samplers = {contender.name: contender.sampler(batch_size) for contender in contenders}
    return interleaved(limit.gathers(batch_size) | samplers, rounds)


def fill(contenders: Iterable[Contender | Limit], workload: Workload) -> None:
    """Appends episodes until every memory is full and has overwritten its oldest."""
    for number in range(workload.episodes_to_fill):
        episode = workload.episode(number)
        for contender in contenders:
            contender.append(episode)
