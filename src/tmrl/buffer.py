"""Buffer: samples on their way from a worker to a memory."""

import logging
from typing import Any, Self

from tmrl.transition import EpisodeRecord

logger = logging.getLogger(__name__)


class Buffer:
    """Samples in the order in which a worker produced them, with the statistics of its episodes.

    Args:
        maxlen: Most samples to hold; the oldest are dropped beyond it, and the drop is logged.

    Attributes:
        memory: The samples, a plain list of tuples. Callers may append to it, slice it and replace it.
        episodes: One record per episode that finished since the last `clear()`, oldest first.
        stat_train_return: Return of the newest training episode.
        stat_test_return: Return of the newest test episode.
        stat_train_steps: Length of the newest training episode, in steps.
        stat_test_steps: Length of the newest test episode, in steps.
        dropped: Samples dropped since the last `clear()`, here or in a Buffer that was added, because there
            were more than `maxlen`.
        maxlen: As given.
    """

    def __init__(self, maxlen: int = 500_000) -> None:
        if maxlen < 1:
            raise ValueError(f"maxlen must be at least 1, got {maxlen}")
        self.maxlen = maxlen
        self.dropped = 0
        self.memory: list[Any] = []
        self.episodes: list[EpisodeRecord] = []
        self.stat_train_return = 0.0
        self.stat_test_return = 0.0
        self.stat_train_steps = 0
        self.stat_test_steps = 0

    def append_sample(self, sample: tuple[Any, ...]) -> None:
        """Appends one sample, kept by reference, then clips."""
        self.memory.append(sample)
        if len(self) > self.maxlen:
            self.clip_to_maxlen()

    def clip_to_maxlen(self) -> None:
        """Drops the oldest samples beyond `maxlen`; the first drop since `clear()` is logged."""
        dropped = len(self) - self.maxlen
        if dropped > 0:
            if not self.dropped:
                logger.warning(
                    "a Buffer is full: of more than maxlen=%d samples the oldest are dropped; "
                    "send it more often, or raise maxlen",
                    self.maxlen,
                )
            self.dropped += dropped
            self._drop_oldest(dropped)

    def _drop_oldest(self, n_samples: int) -> None:
        del self.memory[:n_samples]

    def record_episode(self, record: EpisodeRecord) -> None:
        """Notes a finished episode and makes it the newest in the four `stat_*` attributes."""
        self.episodes.append(record)
        if record.is_test:
            self.stat_test_return, self.stat_test_steps = record.episode_return, record.length
        else:
            self.stat_train_return, self.stat_train_steps = record.episode_return, record.length

    def clear(self) -> None:
        """Empties `memory` and `episodes`; the four `stat_*` attributes stay.

        The old list is left to whoever holds it.
        """
        self.dropped = 0
        self.memory = []
        self.episodes = []

    def __len__(self) -> int:
        return len(self.memory)

    def __iadd__(self, other: "Buffer") -> Self:
        """Appends the samples and episodes of `other`, and takes its statistics unless it is empty."""
        self.episodes += other.episodes
        if len(other) or other.episodes:
            self.stat_train_return = other.stat_train_return
            self.stat_test_return = other.stat_test_return
            self.stat_train_steps = other.stat_train_steps
            self.stat_test_steps = other.stat_test_steps
        self._extend(other)
        self.dropped += other.dropped
        self.clip_to_maxlen()
        return self

    def _extend(self, other: "Buffer") -> None:
        self.memory += other.memory

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({len(self)} samples, {len(self.episodes)} episodes, maxlen={self.maxlen})"
        )
