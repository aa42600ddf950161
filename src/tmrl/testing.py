"""A test kit for memories: does a user's own `Memory` keep the documented interface?

    from tmrl.testing import check_memory

    def test_my_memory_keeps_the_contract():
        check_memory(MyMemory(device="cpu", memory_size=20, batch_size=4))

All that is wrong is found in one run and told in plain words. What the interface forbids is an error; what it
allows, but what makes agents learn from skewed data, is returned for the caller to judge.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from tmrl.buffer import Buffer
from tmrl.errors import ContractError, IntegrityError
from tmrl.integrity import check_transition, nest_crcs, transition_crcs
from tmrl.memory.base import Memory
from tmrl.nest import flatten, leaf_names
from tmrl.transition import EpisodeRecord, Sample

EPISODE_LENGTHS = (5, 1, 4, 3)
MOST_INDICES = 1000

Fingerprint = tuple[tuple[str, int], ...]


def check_memory(memory: Memory, buffer: Buffer | None = None) -> list[str]:
    """Checks a memory against the documented interface; give it one of its own, for it is filled.

    A `memory_size` of at most 10,000 lets the check see how the oldest transitions leave. A memory with
    `crc_debug=True` has its checksums checked too: that is how one that rebuilds observations from compressed
    samples is checked bit by bit.

    Args:
        memory: An empty memory, or a filled one of which only the general rules are checked.
        buffer: Samples as the memory expects them, needed if it expects anything but observations float32
            `(3,)` and actions float32 `(2,)`, such as what a `sample_compressor` returns. It is appended more
            than once, as if by several workers; best it ends in the middle of an episode.

    Returns:
        What is allowed but unwise, one sentence each.

    Raises:
        ContractError: Something breaks the interface; `findings` lists it all.
    """
    inspection = _Inspection(memory, recognisable_buffer() if buffer is None else buffer)
    inspection.run()
    if inspection.breaches:
        raise ContractError(type(memory).__name__, inspection.breaches)
    return inspection.cautions


def recognisable_buffer() -> Buffer:
    """Four short episodes, the last one unfinished, in which no two numbers are equal; with checksums."""
    buffer = Buffer()
    for episode, length in enumerate(EPISODE_LENGTHS):
        for step in range(length + 1):
            buffer.append_sample(_recognisable_sample(buffer, episode, step, is_last=step == length))
    buffer.record_episode(EpisodeRecord("checker", 12.5, EPISODE_LENGTHS[-2], is_test=False))
    buffer.record_episode(EpisodeRecord("checker", 7.5, EPISODE_LENGTHS[0], is_test=True))
    return buffer


def _recognisable_sample(buffer: Buffer, episode: int, step: int, is_last: bool) -> tuple[Any, ...]:
    number = len(buffer)
    is_done = is_last and episode < len(EPISODE_LENGTHS) - 1
    act = np.array([number, -number], np.float32)
    obs = np.array([episode, step, number], np.float32)
    flags = (is_done and episode != 1, is_done and episode == 1)
    if step:
        fields = transition_crcs(buffer.memory[-1][1], act, obs, number + 0.5, *flags)
    else:
        fields = nest_crcs("obs", obs)
    info = {"crc": {"worker": "checker", "episode": episode, "step": number, "fields": fields}}
    return (act, obs, number + 0.5 if step else 0.0, *flags, info)


class _Inspection:
    def __init__(self, memory: Memory, buffer: Buffer) -> None:
        self.memory = memory
        self.buffer = buffer
        self.breaches: list[str] = []
        self.cautions: list[str] = []
        self.happened = _transitions(buffer.memory)
        self.layout = _layout(buffer.memory[0][1]) if self.happened else None
        self.was_empty = False

    def run(self) -> None:
        """Runs every check; one that fails does not hide the others, unless nothing can be drawn."""
        if not self._attempt("reading the attributes", self._check_attributes):
            return
        self.was_empty = len(self.memory) == 0
        checks = [
            ("sample() of an empty memory", self._check_empty),
            ("append of an empty Buffer", self._check_empty_buffer),
            ("append", self._check_append),
        ]
        for name, check in checks:
            if not self._attempt(name, check):
                return
        if len(self.memory) == 0:
            return
        self._attempt("get_transition", self._check_transitions)
        self._attempt("memory[i]", self._check_getitem)
        self._attempt("sample()", self._check_sample)
        self._attempt("iteration", self._check_iteration)
        self._attempt("append to a filled memory", self._check_growth)

    def _attempt(self, name: str, check: Callable[[], None]) -> bool:
        try:
            check()
        except Exception as error:  # whatever a user's memory raises is a finding
            self.breaches.append(f"{name} raised {type(error).__name__}: {error}")
            return False
        return True

    def _breach(self, is_broken: object, finding: str) -> None:
        if is_broken and finding not in self.breaches:
            self.breaches.append(finding)

    def _caution(self, is_unwise: object, finding: str) -> None:
        if is_unwise and finding not in self.cautions:
            self.cautions.append(finding)

    def _is_inherited(self, *methods: str) -> bool:
        return all(getattr(type(self.memory), name).__module__.startswith("tmrl.memory") for name in methods)

    # The checks

    def _check_attributes(self) -> None:
        names = ("nb_steps", "device", "batch_size", "memory_size", "sample_preprocessor", "crc_debug")
        missing = [name for name in (*names, *_STATS, "data") if not hasattr(self.memory, name)]
        if missing:
            raise TypeError(f"it lacks {', '.join(missing)}; its __init__ must call super().__init__")

    def _check_empty(self) -> None:
        if len(self.memory) or not self._is_inherited("sample", "sample_indices"):
            return
        try:
            self.memory.sample()
        except ValueError:
            return
        self._breach(True, "sample() of an empty memory returned a batch; it must raise EmptyMemoryError")

    def _check_empty_buffer(self) -> None:
        before = (len(self.memory), [getattr(self.memory, name) for name in _STATS])
        empty = Buffer()
        empty.stat_train_return = 99.0
        self.memory.append(empty)
        after = (len(self.memory), [getattr(self.memory, name) for name in _STATS])
        self._breach(before != after, "append of an empty Buffer must change nothing, statistics included")

    def _check_append(self) -> None:
        samples, contents = self.buffer.memory, list(self.buffer.memory)
        self.memory.append(self.buffer)
        is_kept = self.buffer.memory is samples and len(samples) == len(contents)
        is_kept = is_kept and all(one is other for one, other in zip(samples, contents, strict=True))
        self._breach(not is_kept, "append_buffer changed the Buffer's samples; they are the caller's")
        differing = [name for name in _STATS if getattr(self.memory, name) != getattr(self.buffer, name)]
        self._breach(differing, f"append must take {', '.join(differing)} from the Buffer")
        self._breach(
            len(self.memory) == 0,
            f"len() is 0 after a Buffer of {len(contents)} samples: no transition can be drawn",
        )
        self._check_length()

    def _check_length(self) -> None:
        length, limit = len(self.memory), self.memory.memory_size
        self._breach(
            length > limit,
            f"len() is {length}, more than memory_size={limit}: drop the oldest when appending",
        )

    def _check_transitions(self) -> None:
        """Every index must give a transition that happened, and always the same one."""
        seen: set[Fingerprint] = set()
        false: list[str] = []
        indices = range(min(len(self.memory), MOST_INDICES))
        for index in indices:
            try:
                transition = self.memory.get_transition(index)
            except NotImplementedError:
                self._caution(True, "get_transition is not implemented: no transition could be checked")
                return
            if len(transition) != 7:
                raise ValueError(
                    f"transition {index} must have 7 parts, info the last, got {len(transition)}"
                )
            fingerprint = _fingerprint(transition)
            self._caution(
                fingerprint != _fingerprint(self.memory.get_transition(index)),
                "get_transition gives different transitions for one index, so that some are drawn more often "
                "than others; count only what can be drawn in __len__",
            )
            false += self._why_false(index, transition, fingerprint)
            seen.add(fingerprint)
        self._breach(
            false,
            f"{len(false)} of {len(indices)} transitions never happened; a transition joins two consecutive "
            f"samples of one episode of one worker, but {''.join(false[:1])}",
        )
        self._check_reachable(seen)

    def _why_false(self, index: int, transition: Sequence[Any], fingerprint: Fingerprint) -> list[str]:
        prev_obs, act, rew, obs, terminated, truncated, info = transition
        if isinstance(info, dict) and "crc" in info:
            try:
                check_transition(info, prev_obs, act, obs, rew, terminated, truncated)
            except IntegrityError as error:
                return [f"transition {index}: {error}"]
            return []
        self._breach(self.memory.crc_debug, 'get_transition must return the info of new_obs, with its "crc"')
        is_comparable = self.was_empty and self.layout == _layout(obs)
        self._caution(
            not is_comparable,
            "get_transition returns other observations than the samples hold: to check them bit by bit, "
            "give an empty memory with crc_debug=True the samples of a worker with crc_debug=True",
        )
        if not is_comparable or fingerprint in self.happened:
            return []
        return [f"transition {index} joins prev_obs={prev_obs}, new_act={act}, rew={rew}, new_obs={obs}"]

    def _check_reachable(self, seen: set[Fingerprint]) -> None:
        happened = list(self.happened)
        if not seen.intersection(happened):
            return
        self._caution(happened[-1] not in seen, "the newest transition cannot be drawn; len() is too small")
        has_room = len(self.buffer) <= self.memory.memory_size and len(self.memory) <= MOST_INDICES
        unreachable = len(set(happened) - seen)
        self._caution(
            has_room and unreachable,
            f"{unreachable} of {len(happened)} transitions that happened are reached by no index",
        )

    def _check_getitem(self) -> None:
        if not self._is_inherited("__getitem__"):
            return
        parts = self.memory[0]
        self._breach(
            len(parts) != 6 or any(type(flag) is not np.float32 for flag in parts[4:]),
            "memory[i] must be six parts, with terminated and truncated as np.float32",
        )
        original = self.memory.sample_preprocessor
        self.memory.sample_preprocessor = _with_other_reward
        try:
            rew = self.memory[0][2]
        finally:
            self.memory.sample_preprocessor = original
        self._breach(rew != -77.0, "memory[i] does not go through sample_preprocessor")

    def _check_sample(self) -> None:
        if not self._is_inherited("sample", "sample_indices", "__getitem__"):
            self.memory.sample()
            return
        original = self.memory.batch_size
        try:
            for batch_size in (original, original + 1):
                self.memory.batch_size = batch_size
                self._check_batch(self.memory.sample(), batch_size)
        finally:
            self.memory.batch_size = original

    def _check_batch(self, batch: Any, batch_size: int) -> None:
        self._breach(len(batch) != 6, f"a batch must have six parts, got {len(batch)}")
        leaves = flatten(tuple(batch))[0]
        shapes = [tuple(np.shape(leaf)) for leaf in leaves]
        self._breach(
            any(shape[:1] != (batch_size,) for shape in shapes),
            f"every part of a batch must have batch_size={batch_size} entries, got shapes {shapes}; "
            "batch_size may be reassigned at any time",
        )
        device = str(self.memory.device or "cpu").split(":")[0]
        found = {leaf.device.type for leaf in leaves if hasattr(leaf, "device")} - {device}
        self._breach(found, f"a batch must be on device {device}, found {', '.join(map(str, found))}")
        dtypes = {str(getattr(flag, "dtype", None)).removeprefix("torch.") for flag in batch[4:]}
        self._breach(dtypes != {"float32"}, f"terminated and truncated must be float32, got {dtypes}")

    def _check_iteration(self) -> None:
        original = self.memory.nb_steps
        try:
            for nb_steps in (1, 3):
                self.memory.nb_steps = nb_steps
                drawn = sum(1 for _ in self.memory)
                self._breach(
                    drawn != nb_steps, f"iteration must yield nb_steps={nb_steps} batches, got {drawn}"
                )
        finally:
            self.memory.nb_steps = original

    def _check_growth(self) -> None:
        """Appends the Buffer again, as of another worker, until the oldest must have left."""
        times = 1
        if self.memory.memory_size <= 10_000:
            times += 2 * int(self.memory.memory_size) // len(self.buffer)
        for _ in range(times):
            self.memory.append(self.buffer)
            self._check_length()
        self._check_transitions()
        self._check_sample()


_STATS = ("stat_train_return", "stat_test_return", "stat_train_steps", "stat_test_steps")


def _with_other_reward(prev_obs: Any, act: Any, _: Any, obs: Any, terminated: Any, truncated: Any) -> Any:
    return prev_obs, act, np.float32(-77.0), obs, terminated, truncated


def _fingerprint(transition: Sequence[Any]) -> Fingerprint:
    prev_obs, act, rew, obs, terminated, truncated, *_ = transition
    return tuple(transition_crcs(prev_obs, act, obs, rew, terminated, truncated).items())


def _transitions(samples: Sequence[Any]) -> dict[Fingerprint, None]:
    """The transitions that samples make, in order; none if samples are not the six."""
    if any(len(sample) != 6 for sample in samples):
        return {}
    joined = [pair for pair in pairwise(samples) if _is_followed(*pair)]
    return {
        _fingerprint((previous[1], act, rew, obs, terminated, truncated)): None
        for previous, (act, obs, rew, terminated, truncated, _) in joined
    }


def _is_followed(previous: Sequence[Any], sample: Sequence[Any]) -> bool:
    if isinstance(previous, Sample) and isinstance(sample, Sample):
        before, after = previous.stamp, sample.stamp
        return before[:2] == after[:2] and before.step + 1 == after.step and before.episode == after.episode
    return not (previous[3] or previous[4])


def _layout(obs: Any) -> tuple[tuple[str, tuple[int, ...]], ...]:
    leaves, treespec = flatten(obs)
    return tuple(zip(leaf_names("obs", treespec), map(np.shape, leaves), strict=True))
