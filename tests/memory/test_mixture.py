"""Mixtures: exact counts of each source, whatever the sources are drawn by."""

from typing import Any

import numpy as np
import pytest
import torch

from frequencies import assert_distributed
from makers import buffer_of, plain_episode
from tmrl.errors import EmptyMemoryError
from tmrl.memory import Epoch, Mixture, Prioritized, Recent, ReplayMemory, Uniform


def memory_of(sampler: Any, sources: str = "demo online other", **kwargs: Any) -> ReplayMemory:
    """Fifteen episodes of six steps, the sources in turns; `source_of` knows which."""
    memory = ReplayMemory(**{"memory_size": 1000, "batch_size": 10, "seed": 0, "sampler": sampler, **kwargs})
    names = sources.split()
    for i in range(15):
        memory.append(buffer_of(plain_episode(6, first=1000 * i)), source=names[i % len(names)])
    return memory


def sources_in(batch: Any, sources: str = "demo online other") -> list[str]:
    names = sources.split()
    return [names[int(number) // 1000 % len(names)] for number in batch.rew.tolist()]


@pytest.mark.parametrize("batch_size", [1, 7, 10, 256])
@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.25, 0.75), (1, 2), (0.1, 0.9), (0.013, 0.4), (0, 1)])
def test_counts_are_exact_to_one_and_shares_exact_in_the_long_run(
    shares: tuple[float, float], batch_size: int
) -> None:
    memory = memory_of(Mixture({"demo": shares[0], "online": shares[1]}), batch_size=batch_size)
    wanted = batch_size * shares[0] / sum(shares)
    counts = [sources_in(memory.sample()).count("demo") for _ in range(400)]
    assert all(abs(count - wanted) < 1 for count in counts)
    assert abs(sum(counts) - 400 * wanted) < 5
    assert set(sources_in(memory.sample())) <= {"demo", "online"}


def test_shares_that_divide_the_batch_are_exact_in_each_batch() -> None:
    memory = memory_of(Mixture({"demo": 0.1, "online": 0.2, "other": 0.7}))
    for _ in range(50):
        assert sources_in(memory.sample()) == ["demo"] + ["online"] * 2 + ["other"] * 7


def test_a_share_may_change_with_the_number_of_the_batch() -> None:
    memory = memory_of(
        Mixture({"demo": lambda step: max(0.0, 1 - step / 10), "online": lambda step: step / 10})
    )
    counts = [sources_in(memory.sample()).count("demo") for _ in range(12)]
    assert counts == [10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0]


def test_within_a_source_every_transition_is_equally_likely() -> None:
    """Also after eviction, which takes from the middle of a source's own order where streams interleave."""
    memory = memory_of(Mixture({"demo": 0.5, "other": 0.5}), memory_size=60, batch_size=100)
    alive = memory.take(range(len(memory)))
    rows = [(row, source) for row, source in zip(alive.ids.tolist(), sources_in(alive), strict=True)]
    drawn = np.concatenate([memory.sample().ids for _ in range(500)])
    for source in ("demo", "other"):
        ids = [row for row, of in rows if of == source]
        assert_distributed(drawn[np.isin(drawn, ids)], dict.fromkeys(ids, 1 / len(ids)))


def test_each_source_has_a_sampler_of_its_own() -> None:
    epoch = Epoch()
    samplers = {"demo": epoch, "online": Recent(half_life=0.01), "other": Prioritized(alpha=1)}
    memory = memory_of(Mixture({"demo": 0.3, "online": 0.3, "other": 0.4}, samplers), batch_size=100)
    batch = memory.sample()
    assert sorted(batch.rew[:30].tolist()) == sorted(
        1000 * i + k for i in range(0, 15, 3) for k in range(1, 7)
    )
    assert set(batch.rew[30:60].tolist()) == {13006.0}
    memory.sample()
    assert epoch.epoch == 1
    memory.update_priorities(batch.ids, np.where(batch.ids == batch.ids[60], 1e9, 0.0))
    assert set(memory.sample().ids[60:].tolist()) == {int(batch.ids[60])}
    assert memory.stats().ignored_updates == 0


def test_each_part_is_weighed_by_itself() -> None:
    memory = memory_of(Mixture({"demo": 0.5, "online": 0.5}, {"online": Prioritized(alpha=1, beta=1)}))
    online = [int(row) for row, source in _rows(memory) if source == "online"]
    memory.update_priorities(online, np.arange(len(online)) + 1.0)
    batch = memory.sample()
    assert batch.weights[:5].tolist() == [1.0] * 5
    assert batch.weights[5:].max() == 1.0
    assert batch.weights[5:].min() < 1.0
    assert batch.weights.dtype == torch.float32


def _rows(memory: ReplayMemory) -> list[tuple[int, str]]:
    batch = memory.take(range(len(memory)))
    return list(zip(batch.ids.tolist(), sources_in(batch), strict=True))


def test_priorities_of_evicted_transitions_are_counted() -> None:
    memory = memory_of(Mixture({"demo": 1}, {"demo": Prioritized()}), memory_size=20)
    ids = memory.sample().ids
    for i in range(3):
        memory.append(buffer_of(plain_episode(6, first=1000 * i)), source="demo")
    memory.update_priorities(ids, np.ones(len(ids)))
    assert memory.stats().ignored_updates == len(ids)


class TestEmptySources:
    def test_one_is_an_error_by_default(self) -> None:
        memory = memory_of(Mixture({"demo": 0.5, "expert": 0.5}))
        with pytest.raises(
            EmptyMemoryError, match="cannot draw from source 'expert': the memory holds 0 transitions of it"
        ):
            memory.sample()

    def test_one_without_a_share_is_none(self) -> None:
        assert set(sources_in(memory_of(Mixture({"demo": 0.5, "expert": 0.0})).sample())) == {"demo"}

    def test_its_share_may_go_to_the_others(self) -> None:
        memory = memory_of(Mixture({"demo": 0.2, "online": 0.3, "expert": 0.5}, empty="others"))
        assert sources_in(memory.sample()) == ["demo"] * 4 + ["online"] * 6
        memory.append(buffer_of(plain_episode(6, first=5000)), source="expert")
        assert len(set(memory.sample().rew[5:].tolist()) & set(range(5001, 5007))) > 1

    def test_if_all_are_there_is_nothing_to_draw(self) -> None:
        with pytest.raises(EmptyMemoryError, match=r"cannot draw from the sources expert: .* append some"):
            memory_of(Mixture({"expert": 0.5}, empty="others")).sample()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({},), r"samplers must be for sources that have a share \(none\), got no shares at all"),
        (({"demo": 1}, {"expert": Uniform()}), r"that have a share \(demo\), got expert"),
        (({"demo": -1},), r"shares must be at least 0, and one of them above 0, got \{'demo': -1.0\}"),
        (({"demo": 0},), "one of them above 0, got"),
        (({"demo": float("nan")},), "shares must be at least 0"),
        (({"demo": 1}, None, "fail"), 'empty must be "error" or "others", got \'fail\''),
    ],
)
def test_what_is_no_mixture_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mixture(*arguments)
