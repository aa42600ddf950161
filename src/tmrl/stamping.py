"""What a worker makes of what its environment returned: a sample with its own arrays, a stamp and checksums.

A sample belongs to the stream, not to the environment. Many environments return the same array at each step
and write into it (so do some actors), therefore every array of a collected sample is copied once, before
the compressor sees it: from then on nobody but the stream holds it. Observations that are only acted on are
not copied.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from tmrl.integrity import CrcRecord, nest_crcs, transition_crcs
from tmrl.nest import flatten, unflatten
from tmrl.transition import Stamp, new_life


def owned(nest: Any) -> Any:
    """Copies a nest and the arrays in it (torch tensors too); other leaves are kept by reference."""
    leaves, treespec = flatten(nest)
    return unflatten(treespec, [_owned_leaf(leaf) for leaf in leaves])


def _owned_leaf(leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray):
        return leaf.copy()
    clone = getattr(leaf, "clone", None)
    return leaf if clone is None else clone()


class Stamper:
    """Where a worker stands in its stream.

    Every reset and every step of the environment is announced with `begin` and `advance`, before it is tried;
    those that are collected are then stamped. Two samples share an episode number only if nothing happened
    between them, whether a step was not collected on purpose or an exception came between.

    Args:
        worker: Name of the worker.

    Attributes:
        worker: As given.
        epoch: Random number of this life of the worker; one that starts again has another.
        episode_step: Steps since the last reset, collected or not.
        is_whole: Whether the last sample, and all before it since the reset, were collected.
    """

    def __init__(self, worker: str) -> None:
        self.worker = worker
        self.epoch = new_life()
        self.episode_step = 0
        self.is_whole = False
        self._stamped: int | None = None
        self._step = -1
        self._episode = -1

    @property
    def is_open(self) -> bool:
        """Whether the last reset or step was collected, and its episode goes on."""
        return self._stamped == self.episode_step

    def begin(self) -> None:
        """Notes a reset."""
        self.episode_step = 0
        self._stamped = None

    def advance(self) -> None:
        """Notes a step."""
        self.episode_step += 1

    def stamp(self, source: str, policy_version: int = 0) -> Stamp:
        """Numbers the sample of the reset or step just noted."""
        follows = self._stamped is not None and self._stamped + 1 == self.episode_step
        self.is_whole = self.episode_step == 0 or (self.is_whole and follows)
        self._episode += not follows
        self._step += 1
        self._stamped = self.episode_step
        place = self._step, self._episode, self.episode_step
        return Stamp(self.worker, self.epoch, *place, source, policy_version)

    def end(self) -> None:
        """Notes that the episode is done."""
        self._stamped = None


def source_of(info: Any, default: str) -> str:
    """The label of where a sample comes from: `info["source"]` if the environment says, else `default`.

    Raises:
        TypeError: `info["source"]` is no str.
    """
    source = info.get("source", default)
    if not isinstance(source, str):
        raise TypeError(
            f'info["source"] labels where a sample comes from and must be a str, got {source!r}; '
            "rename that entry in the environment"
        )
    return source


def add_checksums(
    info: dict[str, Any], stamp: Stamp, prev_obs: Any, values: tuple[Any, ...], crc_samples: bool
) -> None:
    """Puts the checksums of a sample into its info, under `crc`.

    Args:
        info: The sample's info, written to.
        stamp: The sample's stamp.
        prev_obs: The observation that the policy acted on; None at a reset.
        values: The other five: `(act, obs, rew, terminated, truncated)`.
        crc_samples: Whether to write the older `crc_sample` and `crc_sample_ts` too.
    """
    is_reset = stamp.episode_step == 0
    fields = nest_crcs("obs", values[1]) if is_reset else transition_crcs(prev_obs, *values)
    info["crc"] = CrcRecord(worker=stamp.worker, episode=stamp.episode, step=stamp.step, fields=fields)
    if crc_samples:
        info["crc_sample"] = (prev_obs, *values)
        info["crc_sample_ts"] = (stamp.step + 1, stamp.episode_step)


def compressed(sample_compressor: Callable[..., Any], sample: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a user's compressor makes of a sample.

    Raises:
        TypeError: It returned no tuple.
    """
    result = sample_compressor(*sample)
    if not isinstance(result, tuple):
        raise TypeError(
            f"sample_compressor must return a tuple, got {type(result).__name__}; return "
            "(act, obs, rew, terminated, truncated, info)"
        )
    return result
