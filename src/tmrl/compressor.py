"""The compressor that a `History` gives a worker: it leaves out what the memory can rebuild, once proven.

Each observation is compared, bit by bit, with the one before it in its episode. What is declared to repeat
must repeat; where it does not, the worker stops with an error instead of sending what would be rebuilt
otherwise. One compressor serves one worker, because it remembers the last sample.
"""

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from optree import PyTreeSpec

from tmrl.errors import HistoryError
from tmrl.history import History
from tmrl.integrity import leaf_crc
from tmrl.nest import as_array, flatten, leaf_names, unflatten
from tmrl.stamping import owned
from tmrl.transition import Stamp

if TYPE_CHECKING:
    from tmrl.history_rules import Rule


class Compressor:
    """Proves and leaves out what a history declares.

    Args:
        history: The declaration.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        self._treespec: PyTreeSpec | None = None
        self._rules: list[Rule] = []
        self._stamp: Stamp | None = None
        self._leaves: list[Any] = []
        self._actions: list[Any] = []

    def __call__(self, values: tuple[Any, ...], stamp: Stamp) -> tuple[Any, ...]:
        """Compresses the next sample.

        Args:
            values: `(act, obs, rew, terminated, truncated, ...)`, owned by the stream; kept until the next.
            stamp: The sample's stamp.

        Returns:
            The same with the compressed observation. Where `act` is None at a reset, and the observation ends
            with an action buffer, `act` is the action that fills it, so that the row has it.

        Raises:
            HistoryError: The observation is not what the history says. The sample is lost; the next one is
                taken as one after a gap.
        """
        act, obs, *others = values
        last, self._stamp = self._stamp, None
        is_reset = stamp.episode_step == 0
        follows = last is not None and (last.step + 1, last.episode) == (stamp.step, stamp.episode)
        leaves, actions = self._parts(obs)
        names = leaf_names("obs", self._spec)
        proof = _Proof(stamp, is_reset, follows and not is_reset)
        before = self._leaves if proof.follows else [None] * len(leaves)
        kept: list[Any] = []
        for rule, name, leaf, previous in zip(self._rules, names, leaves, before, strict=True):
            kept.append(rule.kept(leaf, name))
            if rule.depth:
                proof.stack(name, leaf, previous)
        if actions:
            act = proof.actions(act, actions, self._actions, len(obs) - len(actions))
        self._stamp, self._leaves, self._actions = stamp, leaves, actions
        return (act, unflatten(self._spec, kept), *others)

    def seen(self, prev_obs: Any, act: Any, obs: Any, *others: Any) -> tuple[Any, ...]:
        """What the checksums are of: the same, with Quantized leaves rounded; a reset has no `prev_obs`."""
        before = None if prev_obs is None else self._rounded(prev_obs)
        return (before, act, self._rounded(obs), *others)

    def _rounded(self, obs: Any) -> Any:
        leaves, actions = self._parts(obs)
        names = leaf_names("obs", self._spec)
        seen = [
            leaf if rule.codec is None else rule.codec.decode(rule.codec.encode(leaf, name))
            for rule, name, leaf in zip(self._rules, names, leaves, strict=True)
        ]
        return self._history.join(unflatten(self._spec, seen), actions)

    def _parts(self, obs: Any) -> tuple[list[Any], list[Any]]:
        rest, actions = self._history.split(obs)
        leaves, treespec = flatten(rest)
        if treespec != self._treespec:
            self._rules = self._history.rules(treespec)
            self._treespec = treespec
        return leaves, actions

    @property
    def _spec(self) -> PyTreeSpec:
        if self._treespec is None:
            raise ValueError("a compressor knows no observation before its first sample")
        return self._treespec


class _Proof:
    """Shows for one sample that what is left out can be rebuilt."""

    def __init__(self, stamp: Stamp, is_reset: bool, follows: bool) -> None:
        self.follows = follows
        self._stamp = stamp
        self._is_reset = is_reset

    def stack(self, name: str, leaf: Any, previous: Any) -> None:
        """The older frames are the newer ones of the observation before; after a gap nobody knows."""
        frames, _ = as_array(leaf)
        if self._is_reset:
            expected = np.broadcast_to(frames[-1], frames[1:].shape)
            what = "the first frame, repeated"
            remedy = (
                "have the wrapper repeat the first frame at a reset, as FrameStackObservation does with "
                'padding_type="reset"'
            )
        elif self.follows:
            expected, what = as_array(previous)[0][1:], "the newest frames of the observation before"
            remedy = "have the wrapper shift by one frame a step"
        else:
            return
        found = frames[:-1]
        if found.tobytes() != np.ascontiguousarray(expected).tobytes() or found.dtype != expected.dtype:
            self._refuse(name, f"{what}, in front of the newest", expected, found, remedy)

    def actions(self, act: Any, entries: list[Any], before: list[Any], first: int) -> Any:
        """The entries are the actions that led here; returns that of the sample."""
        if self._is_reset:
            act = owned(entries[-1]) if act is None else act
            expected = [act] * len(entries)
            what = "the action of the reset"
            remedy = "have the environment fill its buffer at a reset, as rtgym does with reset_act_buf=True"
        else:
            expected = [*(before[1:] if self.follows else entries[:-1]), act]
            what = "the actions that led here, newest last"
            remedy = "have it hold what the policy chose, unchanged"
        for i, (found, wanted) in enumerate(zip(entries, expected, strict=True)):
            if not _is_same(found, wanted):
                self._refuse(f"obs/{first + i}", what, wanted, found, remedy)
        return act

    def _refuse(self, name: str, what: str, expected: Any, found: Any, remedy: str) -> NoReturn:
        raise HistoryError(
            f"{name} of step {self._stamp.step} (step {self._stamp.episode_step} of episode "
            f"{self._stamp.episode}) of worker {self._stamp.worker!r} must hold {what}: expected "
            f"{_brief(expected, found)}, found {_brief(found, expected)}; {remedy}, or "
            "declare Latest() for it"
        )


def _is_same(one: Any, other: Any) -> bool:
    leaves, treespec = flatten(one)
    others, other_treespec = flatten(other)
    return treespec == other_treespec and list(map(leaf_crc, leaves)) == list(map(leaf_crc, others))


def _brief(value: Any, other: Any) -> str:
    """A value in few words: where it is large, the first number in which it differs from another."""
    arrays: list[Any] = []
    for each in (value, other):
        try:
            arrays.append(as_array(each)[0])
        except (ValueError, TypeError, RuntimeError):
            return repr(value)
    array, compared = arrays
    if array.size <= 8 or array.shape != compared.shape or array.dtype != compared.dtype:
        return (
            f"{array.dtype} of shape {array.shape}" if array.size > 8 else f"{array.dtype} {array.tolist()}"
        )
    place = tuple(int(axis[0]) for axis in np.nonzero(array != compared)) if (array != compared).any() else ()
    return f"{array[place]} at {list(place)}" if place else f"{array.dtype} of shape {array.shape}"
