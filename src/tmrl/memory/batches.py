"""Batches: chosen transitions become what is handed out, one gather and one check for all of them."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from tmrl.errors import IntegrityError
from tmrl.history import History
from tmrl.integrity import mismatch
from tmrl.memory.anchors import Pairs
from tmrl.memory.blocks import Block
from tmrl.memory.crc import BatchChecker
from tmrl.memory.handout import HandOut, one_transition
from tmrl.memory.rebuilding import rebuilt
from tmrl.memory.rings import AnyStore, DrawnOfRings
from tmrl.memory.stats import Tally
from tmrl.memory.store import Drawn
from tmrl.memory.windows import Transition, Window
from tmrl.transition import Batch

PADDING = -1
"""Stands for the id of a row that repeats the one before it."""

AnyDrawn = Drawn | DrawnOfRings


class BatchRows(NamedTuple):
    """The rows of a batch, whose ids are computed only if somebody asks."""

    drawn: AnyDrawn
    info_slots: NDArray[np.int32]
    """`(B,)` or `(B, T + 1)` where the rows were that `info` is of."""

    def ids(self) -> NDArray[np.int64]:
        """See `RowIds`."""
        return self.drawn.ids()

    def info_ids(self) -> NDArray[np.int64]:
        """See `RowIds`."""
        slots = self.info_slots
        ids = self.drawn.ids_of(slots)
        if slots.ndim > 1:
            ids[:, 1:][slots[:, 1:] == slots[:, :-1]] = PADDING
        return ids


class Batches:
    """Makes batches out of the rows of a store.

    Args:
        window: What a transition expands to.
        history: What its observations are rebuilt from, or None.
        tally: Knows who sent a row.

    Attributes:
        crc_checked: Transitions that were compared and found equal.
    """

    def __init__(self, window: Window, history: History | None, tally: Tally) -> None:
        self.window = rebuilt(window, history)
        self._info = self.window.layout.info
        self._is_single = type(window) is Transition
        self._is_whole = history is None
        self.crc_checked = 0
        self._tally = tally
        self._hand_out: HandOut | None = None
        self._checker: BatchChecker | None = None

    def forget(self) -> None:
        """Forgets what was made for one layout of rows."""
        self._hand_out = self._checker = None

    def make(
        self,
        store: AnyStore,
        pairs: Pairs,
        weights: NDArray[np.float32] | None,
        device: Any,
        contiguous: bool,
        is_checked: bool,
        documented: tuple[Any, ...] | None = None,
    ) -> tuple[Batch, AnyDrawn]:
        """A batch of these transitions, and which rows it was made of.

        Where the `documented` six parts were made one by one, they take the place of those cut here.

        Raises:
            IntegrityError: In CRC mode, a transition is not the one that its worker saw.
        """
        drawn, hand_out = store.drawn(pairs), self._hand_out
        if hand_out is None or not hand_out.fits(len(pairs), device, contiguous):
            self._hand_out = hand_out = HandOut(store.schema, self.window, len(pairs), device, contiguous)
        block, slots = hand_out.pool.take(), store.expand(drawn.pairs)
        self._fill(store, drawn, block, slots, is_checked and documented is None)
        six, info, beside = hand_out.six(block, slots, store.table.back)
        weighed = None if weights is None else torch.from_numpy(weights).to(device)
        rows = BatchRows(drawn, slots[:, self._info])
        return Batch(six if documented is None else documented, rows, info, weighed, beside), drawn

    def one(self, store: AnyStore, drawn: AnyDrawn, is_checked: bool) -> tuple[Any, ...]:
        """The documented seven values of one transition, as copies.

        Raises:
            IntegrityError: As in `make`; that of a single transition is left to whoever asks.
        """
        if self._is_single:
            previous, anchor = (store.table.rows[slot].copy() for slot in drawn.pairs[0])
            plain = one_transition(store.schema, previous, anchor, self._worker(store, drawn, 0))
            if self._is_whole:
                return plain
            prev_obs, _, _, new_obs, *_ = self._window_of(store, drawn, False)
            return (prev_obs, *plain[1:3], new_obs, *plain[4:])
        return self._window_of(store, drawn, is_checked)

    def _window_of(self, store: AnyStore, drawn: AnyDrawn, is_checked: bool) -> tuple[Any, ...]:
        block, slots = Block(store.schema, self.window, 1), store.expand(drawn.pairs)
        self._fill(store, drawn, block, slots, is_checked)
        return HandOut(store.schema, self.window, 1, "cpu", False).one(block, slots, store.table.back)

    def _fill(
        self, store: AnyStore, drawn: AnyDrawn, block: Block, slots: NDArray[np.int32], is_checked: bool
    ) -> None:
        block.fill(store.table, slots.reshape(-1))
        if not is_checked:
            return
        if self._checker is None:
            self._checker = BatchChecker(store.schema, self.window)
        n_equal, found = self._checker.check(block, slots, store.table.back, store.ring_sizes(slots))
        if found is not None:
            worker = self._worker(store, drawn, found.window)
            raise IntegrityError(mismatch(found.names, worker, found.episode, found.step))
        self.crc_checked += n_equal

    def _worker(self, store: AnyStore, drawn: AnyDrawn, window: int) -> str:
        return self._tally.worker(int(store.table.origin[drawn.pairs[window, 1]]))
