"""Mixture: so much of a batch from each source, each with a sampler of its own.

A source is an order of its own among the transitions of the ring, or, if it is kept, a ring of its own, see
`rings.py`. For the one the mixture passes on what comes and goes; the other tells its sampler itself.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, final

import numpy as np
from numpy.typing import NDArray

from tmrl.errors import EmptyMemoryError
from tmrl.memory.anchors import Pairs
from tmrl.memory.order import Order
from tmrl.memory.samplers import Choice, Followed, Index, Sampler, Slots, Uniform

Share = float | Callable[[int], float]
"""A part of each batch, or a function from the number of the batch, counting from 0, to one."""

GOLDEN_RATIO = 0.6180339887498949
"""Its multiples modulo 1 cover [0, 1) more evenly than those of any other number."""

OTHER = -1
"""Stands for the sources that a mixture does not name."""


@final
class Mixture(Sampler):
    """So much of each batch from each source, by the labels that samples were appended with.

    The parts of a batch stand one behind the other, in the order of `shares`. A source with share `s` has
    `batch_size * s` transitions in it, rounded up or down such that the batch has its size; which of the two
    changes from batch to batch, so that in the long run the shares are exact. Sources that are not named are
    never drawn. Within its source a sampler works as in a memory that holds nothing else: ranks, priorities
    and passes are those of the source. If any of the samplers weighs, each part is weighed by itself.

    Args:
        shares: Source label to its part of each batch. A function of the number of the batch may stand for a
            number. They must be at least 0, and are divided by their sum.
        samplers: Source label to its sampler; the others are `Uniform()`.
        empty: What becomes of the share of a source without transitions: `"error"` raises an
            `EmptyMemoryError`, `"others"` gives it to the other sources, in proportion to their shares.
        keep: Source label to the transitions that are kept of it in a ring of its own: part of the
            `memory_size` that only newer data of the same source evicts, and that holds nothing else. An
            episode that changes from such a source to another, or back, is cut there.

    Raises:
        ValueError: There are no shares, or one is negative; a sampler or a ring is for a source without a
            share; a ring is for a source without a name, or for less than one transition.
    """

    follows = True

    def __init__(
        self,
        shares: Mapping[str, Share],
        samplers: Mapping[str, Sampler] | None = None,
        empty: Literal["error", "others"] = "error",
        keep: Mapping[str, int] | None = None,
    ) -> None:
        samplers = samplers or {}
        self.keep = {source: int(n) for source, n in (keep or {}).items()}
        for name, given in (("samplers", samplers), ("keep", self.keep)):
            unknown = [source for source in given if source not in shares]
            if not shares or unknown:
                raise ValueError(
                    f"{name} must be for sources that have a share ({', '.join(shares) or 'none'}), "
                    f"got {', '.join(unknown) or 'no shares at all'}"
                )
        if "" in self.keep or any(n < 1 for n in self.keep.values()):
            raise ValueError(f"keep must name sources and be at least 1 transition of each, got {self.keep}")
        if empty not in {"error", "others"}:
            raise ValueError(f'empty must be "error" or "others", got {empty!r}')
        self._shares = dict(shares)
        self._samplers = {source: samplers.get(source) or Uniform() for source in shares}
        self._on_empty = empty
        self._step = 0
        self._parts: list[tuple[Sampler, SourceIndex]] = []
        self._indices: list[Index] = []
        self._kept: Mapping[str, Index] = {}
        self.has_priorities = any(sampler.has_priorities for sampler in self._samplers.values())
        self.row_bytes = 24 + sum(sampler.row_bytes for sampler in self._samplers.values())
        if not any(callable(share) for share in self._shares.values()):
            self._shares_now()

    @property
    def kind(self) -> str:
        """See `Sampler`."""
        kinds = (f"{source}: {sampler.kind}" for source, sampler in self._samplers.items())
        return f"Mixture({', '.join(kinds)})"

    def begin(self, rng: np.random.Generator) -> None:
        """See `Sampler`."""
        super().begin(rng)
        for sampler, child in zip(self._samplers.values(), rng.spawn(len(self._samplers)), strict=True):
            sampler.begin(child)

    def sampler_of(self, source: str) -> Sampler:
        """The sampler of a source that has a share."""
        return self._samplers[source]

    def begin_kept(self, kept: Mapping[str, Index]) -> None:
        """Is called with the transitions of the sources in `keep`, before `start` with all the others."""
        self._kept = kept

    def draw(self, batch_size: int, index: Index) -> Choice:  # noqa: ARG002
        """See `Sampler`."""
        counts = self._counts(batch_size)
        parts = zip(self._samplers.values(), self._indices, counts, strict=True)
        choices = [sampler.draw(n, of_source) for sampler, of_source, n in parts if n]
        self._step += 1
        pairs = np.concatenate([choice.pairs for choice in choices])
        if all(choice.weights is None for choice in choices):
            return Choice(pairs)
        weights = [
            np.ones(len(choice.pairs), np.float32) if choice.weights is None else choice.weights
            for choice in choices
        ]
        return Choice(pairs, np.concatenate(weights))

    def _counts(self, batch_size: int) -> list[int]:
        """How many of the batch come from each source."""
        shares = self._shares_now()
        for place, (source, index) in enumerate(zip(self._shares, self._indices, strict=True)):
            if shares[place] > 0 and len(index) == 0:
                if self._on_empty == "error":
                    raise EmptyMemoryError(
                        f"cannot draw from source {source!r}: the memory holds 0 transitions of it; append "
                        'some, or make the Mixture with empty="others"'
                    )
                shares[place] = 0
        if not shares.any():
            raise EmptyMemoryError(
                f"cannot draw from the sources {', '.join(self._shares)}: the memory holds 0 transitions of "
                "those that have a share; append some"
            )
        # Systematic rounding: the shares cut [0, batch_size) into stretches, and a comb of whole numbers,
        # pushed on a little with each batch, says how many of its teeth are in each.
        ends = np.round(batch_size * (np.cumsum(shares) / shares.sum()), 9)
        # The last source with a share ends where the batch does, whatever was rounded before.
        ends[np.flatnonzero(shares)[-1] :] = batch_size
        offset = self._step * GOLDEN_RATIO % 1
        return np.diff(np.floor(ends + offset), prepend=0).astype(int).tolist()

    def _shares_now(self) -> NDArray[np.float64]:
        shares = np.array(
            [share(self._step) if callable(share) else share for share in self._shares.values()], np.float64
        )
        if not (np.isfinite(shares).all() and (shares >= 0).all() and shares.sum() > 0):
            found = dict(zip(self._shares, shares.tolist(), strict=True))
            raise ValueError(f"shares must be at least 0, and one of them above 0, got {found}")
        return shares

    def start(self, followed: Followed) -> None:
        """See `Sampler`."""
        sources = _Sources(followed, list(self._shares))
        number = np.zeros(followed.index.n_rows, np.int64)
        self._sources = sources
        self._indices = [
            self._kept[source]
            if source in self._kept
            else SourceIndex(followed.index, Order(number), sources, place)
            for place, source in enumerate(self._shares)
        ]
        self._parts = [
            (sampler, index)
            for sampler, index in zip(self._samplers.values(), self._indices, strict=True)
            if isinstance(index, SourceIndex)
        ]
        for sampler, index in self._parts:
            sampler.start(replace(followed, index=index))

    def added(self, slots: Slots) -> None:
        """See `Sampler`."""
        for sampler, index, chosen in self._divided(slots):
            index.add(slots[chosen])
            if sampler.follows:
                sampler.added(slots[chosen])

    def removed(self, slots: Slots) -> None:
        """See `Sampler`."""
        for sampler, index, chosen in self._divided(slots):
            index.order.remove(slots[chosen])
            if sampler.follows:
                sampler.removed(slots[chosen])

    def _divided(self, slots: Slots) -> "list[tuple[Sampler, SourceIndex, NDArray[np.bool_]]]":
        """The sources that any of the slots are of, and which these are."""
        places = self._sources.places(slots)
        divided = [(sampler, index, places == index.place) for sampler, index in self._parts]
        return [(sampler, index, chosen) for sampler, index, chosen in divided if chosen.any()]

    def update(self, slots: Slots, td_errors: NDArray[np.float64]) -> int:
        """See `Sampler`."""
        return sum(
            sampler.update(slots[chosen], td_errors[chosen]) for sampler, _, chosen in self._divided(slots)
        )

    def priorities(self, slots: Slots) -> NDArray[np.float64]:
        """See `Sampler`."""
        return sum((sampler.priorities(slots) for sampler, _ in self._parts), np.zeros(len(slots)))

    def restore_priorities(self, slots: Slots, priorities: NDArray[np.float64]) -> None:
        """See `Sampler`."""
        for sampler, _, chosen in self._divided(slots):
            sampler.restore_priorities(slots[chosen], priorities[chosen])

    def state(self) -> dict[str, Any]:
        """See `Sampler`."""
        samplers = [sampler.state() for sampler in self._samplers.values()]
        return super().state() | {"step": self._step, "samplers": samplers}

    def restore(self, state: dict[str, Any]) -> None:
        """See `Sampler`."""
        super().restore(state)
        self._step = int(state["step"])
        for sampler, saved in zip(self._samplers.values(), state["samplers"], strict=True):
            sampler.restore(saved)


class _Sources:
    """Which of the sources of a mixture a row is of."""

    def __init__(self, followed: Followed, names: list[str]) -> None:
        self._followed = followed
        self._names = names
        self._known: list[int] = []
        # The last entry stands for no row at all, whose code is -1.
        self._place_of = np.array([OTHER])

    def places(self, slots: Slots) -> NDArray[np.int64]:
        """`(n,)` places of their sources in the mixture; `OTHER` for those that it does not name."""
        origins = self._followed.origin[slots]
        newest = int(origins.max(initial=-1))
        if newest >= len(self._known):
            for origin in range(len(self._known), newest + 1):
                source = self._followed.source_of(origin)
                self._known.append(self._names.index(source) if source in self._names else OTHER)
            self._place_of = np.array([*self._known, OTHER])
        return self._place_of[origins]


class SourceIndex:
    """The transitions of one source; an `Index`."""

    def __init__(self, index: Index, order: Order, sources: _Sources, place: int) -> None:
        self.n_rows = index.n_rows
        self.order = order
        self.place = place
        self._index = index
        self._sources = sources
        self._newest = 0

    @property
    def oldest(self) -> int:
        """See `Index`."""
        return self._index.oldest

    @property
    def next(self) -> int:
        """See `Index`."""
        return self._index.next

    def __len__(self) -> int:
        return len(self.order)

    def add(self, slots: Slots) -> None:
        """Adds transitions, in the order of their arrival in the ring, also those that had to wait."""
        first = int(slots[0])
        if self._age(first) < self._age(self._newest):
            newer = self.order.cut(len(self.order) - self._count_newer(first))
            slots = np.concatenate([slots, newer])
            slots = slots[np.argsort(self._age(slots))]
        self.order.append(slots)
        self._newest = int(slots[-1])

    def _age(self, slots: Any) -> Any:
        """Where in the order of arrival the rows in slots are, the oldest row of the ring being 0."""
        return (slots - self._index.oldest) % self.n_rows

    def _count_newer(self, slot: int) -> int:
        """How many to cut off so that the rest is older than the one in a slot."""
        n, n_newer, age = len(self.order), 0, self._age(slot)
        while n_newer < n and self._age(self.order.slots(np.array([n - 1 - n_newer])))[0] > age:
            n_newer = min(n, 2 * n_newer + 1)
        return n_newer

    def pairs(self, ranks: NDArray[np.int64]) -> Pairs:
        """See `Index`."""
        return self._index.pairs_at(self.order.slots(ranks))

    def pairs_at(self, slots: Slots) -> Pairs:
        """See `Index`."""
        return self._index.pairs_at(slots)

    def are_anchors(self, slots: Slots) -> NDArray[np.bool_]:
        """See `Index`."""
        return self._index.are_anchors(slots) & (self._sources.places(slots) == self.place)
