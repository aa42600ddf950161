"""Samplers: which transitions make a batch.

A sampler chooses among transitions by their ranks or by the slots of their anchors, and knows nothing of how
rows are stored or linked. One that has to know which transitions come and go says that it `follows`; the
others cost an append nothing. What makes a sampler go on as if it had never stopped is its `state`, and, if
it has priorities, one number beside each row.
"""

from abc import ABC, abstractmethod
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, final

import numpy as np
from numpy.typing import NDArray

from tmrl.errors import EmptyMemoryError
from tmrl.memory.anchors import Pairs

BATCHES_AHEAD = 16
"""Random numbers are drawn for this many batches at a time, because each call of the generator costs."""

Slots = NDArray[Any]
"""`(n,)` integers: places of rows in the ring."""


class Index(Protocol):
    """The transitions to choose from: all of a memory, or those of one source."""

    @property
    def n_rows(self) -> int:
        """Rows of the ring; row `i` is in slot `i % n_rows`."""
        ...

    @property
    def oldest(self) -> int:
        """Id of the oldest row held."""
        ...

    @property
    def next(self) -> int:
        """Id after that of the newest row."""
        ...

    def __len__(self) -> int: ...

    def pairs(self, ranks: NDArray[np.int64]) -> Pairs:
        """The windows of the transitions with these ranks, 0 being the oldest."""
        ...

    def pairs_at(self, slots: Slots) -> Pairs:
        """The windows of the transitions with anchors in these slots."""
        ...

    def are_anchors(self, slots: Slots) -> NDArray[np.bool_]:
        """In which of these slots there is the anchor of a transition that can be drawn."""
        ...


class Choice(NamedTuple):
    """What a batch is to be made of."""

    pairs: Pairs
    """`(B, 2)` int32 slots: the previous row and the anchor."""
    weights: NDArray[np.float32] | None = None
    """`(B,)` float32 importance weights; None if all are 1."""


@dataclass(frozen=True, slots=True)
class Followed:
    """What a sampler that follows is told when an index is made."""

    index: Index
    origin: NDArray[np.int32]
    """`(n_rows,)` codes of where rows come from."""
    source_of: Callable[[int], str]
    """The source label of such a code."""


class RandomNumbers:
    """Random numbers, drawn ahead, because each call of the generator costs.

    They are numbers, not indices: they are scaled by the number of transitions when a batch is drawn, so that
    a transition appended just before can be in it.

    Args:
        rng: The source of randomness; nobody else uses it.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self._ahead = np.empty(0, np.float64)

    def take(self, n: int) -> NDArray[np.float64]:
        """`(n,)` float64 in [0, 1)."""
        if len(self._ahead) < n:
            self._ahead = np.concatenate([self._ahead, self.rng.random(BATCHES_AHEAD * n)])
        numbers, self._ahead = self._ahead[:n], self._ahead[n:]
        return numbers

    def mark(self) -> Any:
        """Where the draws stand, for `reset`; cheaper than `state`, and only for this process."""
        return self.rng.bit_generator.state, self._ahead

    def reset(self, mark: Any) -> None:
        """Goes back to where `mark` was taken."""
        self.rng.bit_generator.state, self._ahead = mark

    def state(self) -> dict[str, Any]:
        """The generator and the numbers drawn ahead, as what `json.dumps` takes."""
        ahead = b64encode(self._ahead.tobytes()).decode()
        return {"generator": self.rng.bit_generator.state, "numbers": ahead}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes over what `state` returned."""
        self.rng.bit_generator.state = state["generator"]
        self._ahead = np.frombuffer(b64decode(state["numbers"]), np.float64)


class Sampler(ABC):
    """Chooses the transitions of a batch. A sampler belongs to one memory.

    To write one, implement `draw`. If it has to know which transitions come and go, set `follows` and
    implement `start`, `added` and `removed`. If it keeps anything from draw to draw, extend `state` and
    `restore`.
    The memory calls all of these with its lock held.
    """

    follows: bool = False
    """Whether `start`, `added` and `removed` are called."""
    has_priorities: bool = False
    """Whether `update` and the other methods about priorities do something."""
    row_bytes: int = 0
    """Bytes kept for each row of the ring."""
    keep: Mapping[str, int] = MappingProxyType({})
    """Source label to transitions, for sources that have a ring of their own, see `rings.py`."""
    numbers: RandomNumbers
    """Where randomness comes from."""

    @property
    def kind(self) -> str:
        """What it is. A sampler takes over the state of its own kind only."""
        return type(self).__name__

    def begin(self, rng: np.random.Generator) -> None:
        """Is called once, by the memory, with the source of randomness.

        Raises:
            ValueError: The sampler belongs to a memory already.
        """
        if hasattr(self, "numbers"):
            raise ValueError(
                f"a sampler must belong to one memory, but this {self.kind} has one; make another"
            )
        self.numbers = RandomNumbers(rng)

    @abstractmethod
    def draw(self, batch_size: int, index: Index) -> Choice:
        """Chooses transitions.

        Args:
            batch_size: How many, exactly.
            index: At least one transition.

        Raises:
            EmptyMemoryError: There are too few.
        """

    def start(self, followed: Followed) -> None:  # noqa: B027
        """Begins with an index that is empty; what was followed before is gone."""

    def added(self, slots: Slots) -> None:  # noqa: B027
        """Transitions with anchors in these slots can be drawn from now on; oldest first.

        With a window that waits, they may be older than some that were added before.
        """

    def removed(self, slots: Slots) -> None:  # noqa: B027
        """Transitions with anchors in these slots cannot be drawn any more."""

    def update(self, slots: Slots, td_errors: NDArray[np.float64]) -> int:  # noqa: ARG002
        """Sets priorities.

        Args:
            slots: `(n,)` slots of anchors; of one named twice, the last error counts.
            td_errors: `(n,)` finite errors.

        Returns:
            For how many there is no transition any more; they are ignored.
        """
        return 0

    def priorities(self, slots: Slots) -> NDArray[np.float64]:
        """What `restore_priorities` needs for these slots, `(n,)` float64; 0 where there is no transition."""
        return np.zeros(len(slots))

    def restore_priorities(self, slots: Slots, priorities: NDArray[np.float64]) -> None:  # noqa: B027
        """Takes over what `priorities` returned; transitions with a 0 get the largest one.

        Args:
            slots: `(n,)` slots of all rows held.
            priorities: `(n,)` for each.
        """

    def mark(self) -> Any:
        """Where the draws stand, for `reset` in this process, while no transition comes or goes."""
        return self.state()

    def reset(self, mark: Any) -> None:
        """Goes back to where `mark` was taken."""
        self.restore(mark)

    def state(self) -> dict[str, Any]:
        """What the next draw depends on, beside transitions and priorities, as what `json.dumps` takes."""
        return {"kind": self.kind, **self.numbers.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes over what `state` of a sampler of this kind returned."""
        self.numbers.restore(state)


@final
class Uniform(Sampler):
    """Every transition equally likely.

    Args:
        replace: Whether a transition may be in a batch more than once. Without replacement, a draw of more
            transitions than there are raises an `EmptyMemoryError`.
    """

    def __init__(self, replace: bool = True) -> None:
        self.replace = replace

    def draw(self, batch_size: int, index: Index) -> Choice:
        """See `Sampler`."""
        n = len(index)
        if self.replace:
            return Choice(index.pairs(scaled(self.numbers.take(batch_size), n)))
        if batch_size > n:
            raise EmptyMemoryError(
                f"cannot draw {batch_size} transitions without replacement: there are {n}; append more, or "
                "choose a smaller batch_size"
            )
        return Choice(index.pairs(self.numbers.rng.choice(n, batch_size, replace=False)))

    def mark(self) -> Any:
        """See `Sampler`."""
        return self.numbers.mark()

    def reset(self, mark: Any) -> None:
        """See `Sampler`."""
        self.numbers.reset(mark)


def scaled(numbers: NDArray[np.float64], n: int) -> NDArray[np.int64]:
    """Ranks below `n` of numbers in [0, 1)."""
    # The product stays below n also after rounding: the largest number is 1 - 2**-53.
    return (numbers * n).astype(np.int64)
