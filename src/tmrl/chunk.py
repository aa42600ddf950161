"""Chunk: packed rows of one stream, in the order of their steps, without a hole.

A Buffer may hold samples of several workers, in any order, after any surgery. `chunks_of` sorts them out: one
chunk for each unbroken run of steps of one stream, packed together in one go.

Where samples carry no stamp, the Buffer itself is the stream: its samples are consecutive, a sample after a
done one is a reset, and the stream ends with the Buffer unless the caller says that it continues. Samples
without a stamp among stamped ones break the streams around them: nobody knows what they replaced.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tmrl.packing import Packer, refuse
from tmrl.rows import Rows, take_rows


class Stream(NamedTuple):
    """Name of an unbroken order of samples."""

    worker: str
    epoch: int


PLAIN = Stream("unstamped", 0)
"""The stream of samples without a stamp."""

DEFAULT_SOURCE = "online"
"""The label of samples for which nobody chose another, neither the worker nor the caller of `append`."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows of one stream, consecutive steps."""

    rows: Rows
    """The packed samples."""
    starts: NDArray[np.bool_]
    """Which rows begin an episode."""
    episodes: NDArray[np.int64]
    """Number of each row's episode in its stream; zeros where samples carry no stamp."""
    stream: Stream
    """Whose rows they are."""
    first_step: int | None
    """Number of the first row in its stream; None where samples carry no stamp."""
    source: str
    """Label of where the data come from."""
    continues: bool
    """Whether the first row may follow the newest row of its stream that the memory holds."""
    policy_version: int = 0
    """Which of the trainer's policies acted; 0 if none did, or samples carry no stamp."""

    def parts(self, n_rows: int) -> "Iterator[Chunk]":
        """The same rows in chunks of at most so many, which follow each other; nothing is copied."""
        for start in range(0, len(self.rows), n_rows):
            part = slice(start, start + n_rows)
            yield replace(
                self,
                rows=self.rows[part],
                starts=self.starts[part],
                episodes=self.episodes[part],
                first_step=None if self.first_step is None else self.first_step + start,
                continues=self.continues or start > 0,
            )


@dataclass(frozen=True, slots=True)
class Run:
    """Which samples make a chunk."""

    picks: list[int]
    stream: Stream
    first_step: int | None
    source: str
    continues: bool
    policy_version: int = 0


def chunks_of(
    samples: Sequence[Any], packer: Packer, source: str = DEFAULT_SOURCE, continues: bool = False
) -> list[Chunk]:
    """Packs samples and sorts them into chunks.

    Args:
        samples: As in `Buffer.memory`; only read.
        packer: What they are checked against; nothing is made of them unless all fit.
        source: Label of samples that carry none, or the default one.
        continues: Whether samples without a stamp go on where the last ones without a stamp ended.

    Returns:
        The chunks, streams in the order in which they first appear. Chunks share one block of rows.

    Raises:
        BadSampleError: A sample does not fit.
        IntegrityError: In CRC mode, a sample carries no checksums.
    """
    rows = packer.pack(samples)
    runs = runs_of(samples, source, continues)
    if len(runs) == 1:
        return [_chunk(rows, samples, runs[0])]
    order = [pick for run in runs for pick in run.picks]
    rows = take_rows(rows, np.array(order))
    chunks: list[Chunk] = []
    start = 0
    for run in runs:
        stop = start + len(run.picks)
        chunks.append(_chunk(rows[start:stop], [samples[i] for i in run.picks], run))
        start = stop
    return chunks


def _chunk(rows: Rows, samples: Sequence[Any], run: Run) -> Chunk:
    n = len(samples)
    if run.first_step is None:
        starts = plain_starts(rows, np.fromiter((sample[0] is None for sample in samples), np.bool_, n))
        episodes = np.zeros(n, np.int64)
    else:
        _, _, _, episodes, episode_steps, *_ = zip(*(sample.stamp for sample in samples), strict=True)
        starts = np.array(episode_steps) == 0
        episodes = np.array(episodes, np.int64)
    place = run.stream, run.first_step, run.source, run.continues, run.policy_version
    return Chunk(rows, starts, episodes, *place)


def plain_starts(rows: Rows, is_actless: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of samples without a stamp begin an episode: those without an action, and those after the end."""
    starts = is_actless.copy()
    if len(rows) > 1:
        starts[1:] |= rows["terminated"][:-1] | rows["truncated"][:-1]
    return starts


def runs_of(samples: Sequence[Any], source: str, continues: bool) -> list[Run]:
    """Which samples make which chunk, see `chunks_of`.

    Raises:
        BadSampleError: A sample without a stamp has an `info["source"]` that is no str.
    """
    stamps = [getattr(sample, "stamp", None) for sample in samples]
    if not any(stamps):
        return _plain_runs(samples, range(len(samples)), source, continues)
    if all(stamps) and (run := _whole_run(stamps, source)):
        return [run]
    groups: dict[Any, list[int]] = {}
    section = 0
    for index, stamp in enumerate(stamps):
        if stamp is None:
            if not index or stamps[index - 1] is not None:
                section += 1
            groups.setdefault(section, []).append(index)
        else:
            groups.setdefault((Stream(stamp.worker, stamp.epoch), section), []).append(index)
    runs: list[Run] = []
    for key, picks in groups.items():
        if isinstance(key, int):
            runs += _plain_runs(samples, picks, source, continues=False)
        else:
            runs += _stamped_runs(stamps, picks, key[0], source, is_broken=key[1] > 0)
    return runs


def _whole_run(stamps: Sequence[Any], source: str) -> Run | None:
    """The run of samples that are consecutive steps of one stream, as most are; 5x faster than sorting."""
    workers, epochs, steps, _, _, sources, versions = zip(*stamps, strict=True)
    n = len(stamps)
    if sum(len(set(values)) for values in (workers, epochs, sources, versions)) > 4:
        return None
    if steps != tuple(range(steps[0], steps[0] + n)):
        return None
    label = _label(sources[0], source)
    return Run(list(range(n)), Stream(workers[0], epochs[0]), steps[0], label, True, versions[0])


def _label(stamped: str, given: str) -> str:
    """The label of a stamped sample: the worker's own, or else what the caller of `append` gave."""
    return given if stamped == DEFAULT_SOURCE else stamped


def _plain_runs(samples: Sequence[Any], picks: Sequence[int], source: str, continues: bool) -> list[Run]:
    """One run, or several that follow each other where `info["source"]` changes."""
    labels = [info.get("source", source) if type(info := samples[i][5]) is dict else source for i in picks]
    kinds = set(map(type, labels))
    if kinds == {str} and labels.count(labels[0]) == len(labels):  # as most are
        return [Run(list(picks), PLAIN, None, labels[0], continues)]
    if not all(issubclass(kind, str) for kind in kinds):
        pick, label = next((i, x) for i, x in zip(picks, labels, strict=True) if not isinstance(x, str))
        refuse(samples, pick, 'info["source"]', "a str that labels where the data come from", f"{label!r}")
    cuts = [i for i in range(1, len(labels)) if labels[i] != labels[i - 1]]
    return [
        Run(list(picks[start:stop]), PLAIN, None, labels[start], continues or start > 0)
        for start, stop in zip([0, *cuts], [*cuts, len(labels)], strict=True)
    ]


def _stamped_runs(
    stamps: Sequence[Any], picks: list[int], stream: Stream, source: str, is_broken: bool
) -> list[Run]:
    """Runs of consecutive steps with one source label, of one policy."""
    runs: list[Run] = []
    follows: tuple[int, str, int] | None = None
    for pick in picks:
        stamp = stamps[pick]
        label, version = _label(stamp.source, source), stamp.policy_version
        if (stamp.step, label, version) == follows:
            runs[-1].picks.append(pick)
        else:
            runs.append(Run([pick], stream, stamp.step, label, bool(runs) or not is_broken, version))
        follows = (stamp.step + 1, label, version)
    return runs
