"""Lane: the way from what one environment returns to the samples of one stream.

    observation --> obs_preprocessor --> frames that the policy sees
                                    `--> stamp, checksums --> compressor --> buffer

A worker has one lane for each environment that it steps. It announces each reset and each step to the lane
before it tries them, and says what came of them: what is not announced, or not collected, leaves a gap that
the stamps tell of.
"""

import platform
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tmrl.buffer import Buffer
from tmrl.compressor import Compressor
from tmrl.frames import Frames
from tmrl.history import History
from tmrl.stamping import Stamper, add_checksums, compressed, owned, source_of
from tmrl.transition import EpisodeRecord, Sample


def worker_name(given: str | None) -> str:
    """The name of a worker: as given, or the machine's with eight random characters."""
    return given or f"{platform.node() or 'worker'}-{secrets.token_hex(4)}"


def checked_limit(name: str, limit: float) -> float:
    """A limit of the steps of an episode.

    Raises:
        ValueError: It is below 1; the message calls it by `name`.
    """
    if limit < 1:
        raise ValueError(f"{name} must be at least 1, got {limit}")
    return limit


@dataclass(frozen=True, slots=True)
class SampleRules:
    """How samples are made, alike in all lanes of a worker; the fields are arguments of `RolloutWorker`."""

    sample_compressor: Callable[..., tuple[Any, ...]] | None = None
    obs_preprocessor: Callable[[Any], Any] | None = None
    crc_debug: bool = False
    crc_samples: bool = False
    source: str = "online"
    frame_stack: int = 1
    history: History | None = None

    def __post_init__(self) -> None:
        if self.history is not None and self.sample_compressor is not None:
            raise ValueError(
                "a worker compresses one way, got history= and sample_compressor=; pass one of them"
            )


class Lane:
    """Makes the samples of one stream.

    Args:
        name: Name of the stream's worker.
        rules: How samples are made.

    Attributes:
        name: As given.
        obs: The newest observation, preprocessed, as the environment returned it: it may write into it.
    """

    def __init__(self, name: str, rules: SampleRules) -> None:
        self.name = name
        self.obs: Any = None
        self._rules = rules
        self._stamper = Stamper(name)
        self._frames = Frames(rules.frame_stack)
        self._compressor = None if rules.history is None else Compressor(rules.history)
        self._prev_obs: Any = None
        self._act: Any = None
        self._episode_return = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the last reset or step was collected, and its episode goes on."""
        return self._stamper.is_open

    @property
    def episode_step(self) -> int:
        """Steps since the last reset, collected or not."""
        return self._stamper.episode_step

    def begin(self) -> None:
        """Announces a reset."""
        self._stamper.begin()
        self._episode_return = 0.0

    def start(self, obs: Any, act: Any = None) -> Any:
        """Takes the observation of the reset, and the action of its sample; returns it preprocessed."""
        self._prev_obs, self._act = None, act
        self.obs = self._preprocessed(obs)
        self._frames.begin(self.obs)
        return self.obs

    def look(self, obs: Any, is_collected: bool = True) -> Any:
        """What the policy sees of `obs`, the newest observation."""
        # Taken before the environment, or the policy, can write into it.
        self._prev_obs = owned(obs) if is_collected and self._rules.crc_debug else None
        return self._frames.seen(obs)

    def advance(self, act: Any) -> None:
        """Announces a step; its action, which nobody else may write to, is kept until it is collected."""
        self._act = act
        self._stamper.advance()

    def arrive(self, obs: Any, rew: Any) -> Any:
        """Takes what the step led to; returns the observation preprocessed."""
        self.obs = self._preprocessed(obs)
        self._frames.add(self.obs)
        self._episode_return += float(rew)
        return self.obs

    def collect(
        self, buffer: Buffer, policy_version: int, rew: Any, terminated: Any, truncated: Any, info: Any
    ) -> None:
        """Puts the sample of the last reset or step into a buffer, and the episode if that ends here."""
        is_done = terminated or truncated
        try:
            buffer.append_sample(self._sample(policy_version, rew, terminated, truncated, info))
        finally:
            # The episode is over, also if its last sample cannot be made.
            if is_done:
                self._stamper.end()
        if is_done and self._stamper.is_whole:
            buffer.record_episode(self.record(policy_version, is_test=False))

    def record(self, policy_version: int, is_test: bool) -> EpisodeRecord:
        """The episode as it is now."""
        return EpisodeRecord(self.name, self._episode_return, self.episode_step, is_test, policy_version)

    def _sample(self, policy_version: int, rew: Any, terminated: Any, truncated: Any, info: Any) -> Sample:
        # dict(): a dict subclass is a leaf, kept by reference.
        values, info = owned(((self._act, self.obs, rew, terminated, truncated), dict(info)))
        rules = self._rules
        stamp = self._stamper.stamp(source_of(info, rules.source), policy_version)
        if rules.crc_debug:
            given = (self._prev_obs, *values)
            seen = given if self._compressor is None else self._compressor.seen(*given)
            add_checksums(info, stamp, seen[0], seen[1:], rules.crc_samples)
        if self._compressor is not None:
            values = self._compressor(values, stamp)
        sample = (*values, info)
        if rules.sample_compressor is not None:
            sample = compressed(rules.sample_compressor, sample)
        return Sample(sample, stamp)

    def _preprocessed(self, obs: Any) -> Any:
        return obs if self._rules.obs_preprocessor is None else self._rules.obs_preprocessor(obs)
