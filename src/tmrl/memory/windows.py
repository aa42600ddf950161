"""Windows: which rows an anchor stands for, and what becomes of them.

A window is L rows of one episode, found by following the links from an anchor: some behind the transition
that the anchor completes, the transition's own two rows, and some ahead.

    behind ...  previous  anchor  ... ahead  (behind the last ...)  last
    [0]                                                             [L - 1]

Where an episode begins, the link of its first row leads to that row itself, so what is behind is padded with
the first observation; where it ends, or the newest row is reached, what is ahead repeats the last row. An
anchor can be drawn only if all rows behind it are there, as many as the window asks for.

Any sampler works with any window. Adding one is a class here, and touches neither ring nor links.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tmrl.errors import DatasetError
from tmrl.history_rules import Quantized
from tmrl.memory.anchors import Pairs
from tmrl.rows import START
from tmrl.schema import Leaf, Schema

Selection = int | slice
"""Which rows of a window a part is cut from: one, or several as a dimension behind the batch's."""


class Part(NamedTuple):
    """One leaf of a batch, and where in windows it is cut from."""

    leaf: Leaf
    """The field of the rows."""
    rows: Selection
    depth: int = 0
    """Rows up to each of `rows`, as an axis behind theirs; 0 for none. Only with several `rows`."""
    codec: Quantized | None = None
    """How its numbers are kept; None as they are."""


class Layout(NamedTuple):
    """Where things are in a window."""

    behind: int
    """Rows behind the transition's first one."""
    ahead: int
    """Rows ahead of the anchor, the last one at the end."""
    again: int
    """Rows behind the last one that are gathered for it, in front of it: how far ahead it is may differ."""
    prev_obs: Selection
    act: Selection
    new_obs: Selection
    info: Selection

    @property
    def n_rows(self) -> int:
        """Rows of the window."""
        return self.behind + 2 + self.ahead + self.again


class Scalars(NamedTuple):
    """The parts of a batch that are not views of the gathered rows."""

    rew: NDArray[np.float32]
    terminated: NDArray[np.float32]
    truncated: NDArray[np.float32]
    beside: dict[str, NDArray[Any]]
    """Attributes of the batch by name: `discounts`, `n_steps`, `mask`, `is_first`."""


class Window(ABC):
    """What an anchor expands to. A window holds no state; one may serve several memories."""

    stack: "FrameStack | None" = None
    """How single observations are stacked; None if they are not."""
    stride: int = 1
    """Only transitions whose number in their episode is divisible by this are anchors."""
    waits: int = 0
    """How many of the newest anchors of a stream cannot be drawn while it may go on, see `waiting.py`."""

    @property
    @abstractmethod
    def layout(self) -> Layout:
        """Where things are in a window."""

    @abstractmethod
    def scalars(self, rows: NDArray[np.void], slots: NDArray[np.int32], back: NDArray[np.int32]) -> Scalars:
        """Rewards, flags and what comes beside.

        Args:
            rows: `(B, L)` the gathered rows.
            slots: `(B, L)` where they came from: a row that repeats the one before it is padding.
            back: Links of the ring, by slot.
        """

    def observed(self, leaf: Leaf, where: Selection) -> Selection:
        """Which rows a leaf of an observation is cut from, given where the observation is."""
        if self.stack is None or isinstance(where, slice) or not self.stack.has(leaf):
            return where
        return slice(where - self.stack.k + 1, where + 1)

    def observation(self, schema: Schema, where: Selection) -> list[Part]:
        """What the observation in these rows is cut from, leaf by leaf."""
        return [Part(leaf, self.observed(leaf, where)) for leaf in schema.seen.leaves]


@dataclass(frozen=True)
class Transition(Window):
    """One step, the default: the two rows that an anchor completes."""

    @property
    def layout(self) -> Layout:
        """The previous row and the anchor, behind what a stack needs."""
        behind = _behind(self.stack)
        return Layout(behind, 0, 0, behind, behind + 1, behind + 1, behind + 1)

    def scalars(self, rows: NDArray[np.void], slots: NDArray[np.int32], back: NDArray[np.int32]) -> Scalars:  # noqa: ARG002
        """Those of the anchor."""
        anchor = rows[:, -1]
        return Scalars(anchor["rew"].copy(), _flag(anchor["terminated"]), _flag(anchor["truncated"]), {})


@dataclass(frozen=True)
class FrameStack(Transition):
    """One step of stacks of the last `k` frames, made of frames that are stored once.

    At the start of an episode the reset observation is repeated, as Gymnasium's `FrameStackObservation` does.
    `prev_obs` and `new_obs` get a dimension of `k` in front of each leaf's own, the oldest frame first. For
    stacks with n-step returns, give this to `NStep` as its `stack`.

    Args:
        k: Frames in a stack.
        leaves: Names of the leaves to stack, as in `("camera",)` or `("obs/camera",)`; none stands for all.
            The others are handed out as they are.

    Raises:
        ValueError: `k` is below 1.
    """

    k: int
    leaves: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _at_least("k", self.k, 1)

    @property
    def stack(self) -> "FrameStack":  # pyright: ignore[reportIncompatibleVariableOverride]
        """This one."""
        return self

    def has(self, leaf: Leaf) -> bool:
        """Whether a leaf is stacked."""
        return not self.leaves or leaf.name in self.leaves or leaf.name.removeprefix("obs/") in self.leaves


@dataclass(frozen=True)
class NStep(Window):
    """Returns of up to `n` steps: `rew` is their discounted sum, `new_obs` what the last of them led to.

    Steps are counted forward from the anchor. Where the episode ends, or the newest row is reached, there
    are fewer: `batch.n_steps` says how many, k, and `batch.discounts` is `discount ** k`, by which to
    multiply the value of `new_obs`. `terminated` and `truncated` are those of the last step. A truncated
    episode has a future, so the value of its last observation counts. Sutton and Barto 2018, section 7.1.

    With `wait`, a transition cannot be drawn while more of its steps may still come: at most the `n - 1`
    newest ones of each stream. There are fewer steps only where the episode has ended, or its stream has
    broken by a gap, a reset, or another life of the worker. Samples without a stamp wait for the next ones,
    which may continue them.

    Args:
        n: Most steps.
        discount: Discount factor of a step.
        stack: Stacks of frames in place of single observations.
        wait: Whether transitions wait for their further steps.

    Raises:
        ValueError: `n` is below 1, or `discount` not in [0, 1].
    """

    n: int
    discount: float
    stack: FrameStack | None = None
    wait: bool = False

    def __post_init__(self) -> None:
        _at_least("n", self.n, 1)
        if not 0.0 <= self.discount <= 1.0:
            raise ValueError(f"discount must be in [0, 1], got {self.discount}")

    @property
    def waits(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Those that lack steps."""
        return self.n - 1 if self.wait else 0

    @property
    def layout(self) -> Layout:
        """The previous row, the anchor, and the rows of the further steps."""
        behind = _behind(self.stack)
        again = behind if self.n > 1 else 0
        return Layout(behind, self.n - 1, again, behind, behind + 1, behind + self.n + again, behind + 1)

    def scalars(self, rows: NDArray[np.void], slots: NDArray[np.int32], back: NDArray[np.int32]) -> Scalars:  # noqa: ARG002
        """The sum of the rewards, and the flags of the last step."""
        layout = self.layout
        places = [*range(layout.behind, layout.behind + self.n), layout.n_rows - 1]
        is_step, last = _is_step(slots[:, places]), rows[:, -1]
        rewards = np.where(is_step, rows["rew"][:, places[1:]], np.float32(0)).astype(np.float64)
        total = np.zeros(len(rows))
        for i in range(self.n):  # in the order in which a plain loop adds
            total += self.discount**i * rewards[:, i]
        n_steps = is_step.sum(axis=1)
        beside = {"n_steps": n_steps, "discounts": (self.discount**n_steps).astype(np.float32)}
        flags = _flag(last["terminated"]), _flag(last["truncated"])
        return Scalars(total.astype(np.float32), *flags, beside)


@dataclass(frozen=True)
class Sequence(Window):
    """Sequences of up to `length` steps of one episode, for recurrent agents: each part is `(B, T, ...)`.

    Steps are counted forward from the anchor. Where the episode ends, or the newest row is reached, the rest
    is padding: `batch.mask` is 1 where there is a step to learn from, and 0 in the padding and in the first
    `burn_in` steps, which only warm up the recurrent state (Kapturowski et al. 2019, "Recurrent Experience
    Replay in Distributed Reinforcement Learning"). `batch.is_first` tells where `prev_obs` begins an episode.

    Entries of `info` have T + 1 steps, as the observations do: the first belongs to the first `prev_obs`,
    like a recurrent state that was stored before it was acted on. At a reset it is what the reset's info
    said, or zeros.

    Args:
        length: Steps, those of the burn-in included.
        burn_in: Steps at the start that are not learned from.
        stride: Distance between the places in an episode where sequences begin; 1 for every place.

    Raises:
        ValueError: `length` or `stride` is below 1, or `burn_in` not in [0, length).
    """

    length: int
    burn_in: int = 0
    stride: int = 1

    def __post_init__(self) -> None:
        _at_least("length", self.length, 1)
        _at_least("stride", self.stride, 1)
        if not 0 <= self.burn_in < self.length:
            raise ValueError(f"burn_in must be at least 0 and below length={self.length}, got {self.burn_in}")

    @property
    def layout(self) -> Layout:
        """The previous row, the anchor, and the rows of the further steps."""
        steps = slice(1, self.length + 1)
        return Layout(0, self.length - 1, 0, slice(0, self.length), steps, steps, slice(0, self.length + 1))

    def scalars(self, rows: NDArray[np.void], slots: NDArray[np.int32], back: NDArray[np.int32]) -> Scalars:
        """Those of each step; zeros in the padding."""
        is_step, steps = _is_step(slots), rows[:, 1:]
        mask = is_step.astype(np.float32)
        mask[:, : self.burn_in] = 0.0
        beside = {"mask": mask, "is_first": (back[slots[:, :-1]] == START) & is_step}
        rew = np.where(is_step, steps["rew"], np.float32(0))
        terminated, truncated = (_flag(steps[name] & is_step) for name in ("terminated", "truncated"))
        return Scalars(rew, terminated, truncated, beside)


def expand(
    pairs: Pairs, layout: Layout, back: NDArray[np.int32], following: NDArray[np.int64]
) -> NDArray[np.int32]:
    """Follows the links from anchors.

    Args:
        pairs: `(B, 2)` slots of the transitions' two rows.
        layout: How far.
        back: Links of the ring, by slot.
        following: Slots of the next rows, by slot; the same where nothing follows.

    Returns:
        `(B, L)` slots.
    """
    if layout.n_rows == 2:
        return pairs
    n_slots, previous, last = len(back), layout.behind, layout.n_rows - 1
    columns = np.empty((layout.n_rows, len(pairs)), np.int64)
    columns[previous : previous + 2] = pairs.T
    for column in range(previous + 2, previous + 2 + layout.ahead):
        following.take(columns[column - 1], out=columns[column], mode="clip")
    columns[last] = columns[previous + 1 + layout.ahead]
    for end, n in ((previous, layout.behind), (last, layout.again)):
        slots = columns[end]
        for column in range(end - 1, end - 1 - n, -1):
            slots = (slots - np.maximum(back[slots], 0)) % n_slots
            columns[column] = slots
    return columns.T.astype(np.int32, order="C")


def _behind(stack: FrameStack | None) -> int:
    return 0 if stack is None else stack.k - 1


def _is_step(slots: NDArray[np.int32]) -> NDArray[np.bool_]:
    """`(B, L - 1)` whether each row but the first is a step, and not the padding behind the last one."""
    return slots[:, 1:] != slots[:, :-1]


def _flag(flags: NDArray[np.bool_]) -> NDArray[np.float32]:
    return flags.astype(np.float32)


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in (Transition, FrameStack, NStep, Sequence)}


def window_to_json(window: Window) -> dict[str, Any] | None:
    """One of the windows of this module as what `json.dumps` takes; None for a window of the user's own."""
    kind = type(window).__name__
    if _KINDS.get(kind) is not type(window):
        return None
    fields: dict[str, Any] = vars(window)
    return {"kind": kind} | {
        name: window_to_json(value) if isinstance(value, Window) else value for name, value in fields.items()
    }


def window_from_json(document: dict[str, Any]) -> Window:
    """The window that `window_to_json` wrote.

    Raises:
        DatasetError: It is no such document.
    """
    try:
        fields = {
            name: window_from_json(value)
            if isinstance(value, dict)
            else tuple(value)
            if isinstance(value, list)
            else value
            for name, value in document.items()
            if name != "kind"
        }
        return _KINDS[document["kind"]](**fields)
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"a saved window must be one of {', '.join(_KINDS)}, but: {error!r}") from error
