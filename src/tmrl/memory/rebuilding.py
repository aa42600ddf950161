"""Rebuilding: a history as a layer over any window.

The window says which rows are wanted; the history reaches further back from each of them. So the layer asks
for that many rows more behind what the window has, and more behind its last row where that may be anywhere
ahead. All but quantized leaves are still views of the one block that was gathered: of overlapping frames, and
of the actions in the rows before.

    window    behind ...  previous  anchor  ... ahead  (behind the last ...)  last
    layer     further ... behind ...  previous  anchor  ...  (further ...)(behind the last ...)  last
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmrl.history import History
from tmrl.memory.windows import Layout, Part, Scalars, Selection, Window, window_from_json
from tmrl.schema import Leaf, Schema

_SCALARS = np.dtype([("rew", np.float32), ("terminated", np.bool_), ("truncated", np.bool_)])


@dataclass(frozen=True)
class Rebuilt(Window):
    """A window whose observations a history rebuilds.

    Args:
        window: What an anchor expands to.
        history: What each of its observations is made of.
    """

    window: Window
    history: History

    @property
    def stride(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """That of the window."""
        return self.window.stride

    @property
    def waits(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """That of the window."""
        return self.window.waits

    @property
    def layout(self) -> Layout:
        """The window's, with more rows behind."""
        inner, further = self.window.layout, self.history.behind
        return Layout(
            inner.behind + further,
            inner.ahead,
            inner.again + self._further_at_the_end,
            *map(self._moved, (inner.prev_obs, inner.act, inner.new_obs, inner.info)),
        )

    @property
    def _further_at_the_end(self) -> int:
        """Only the rows of single steps lie behind a last one that may be anywhere."""
        inner = self.window.layout
        return self.history.behind if inner.ahead and isinstance(inner.new_obs, int) else 0

    @property
    def _own(self) -> list[int]:
        """Places of the window's own rows."""
        inner = self.window.layout
        in_front = inner.behind + 1 + inner.ahead
        further = self.history.behind
        return [
            place + further + (self._further_at_the_end if place >= in_front else 0)
            for place in range(inner.n_rows)
        ]

    def _moved(self, where: Selection) -> Selection:
        own = self._own
        if isinstance(where, int):
            return own[where]
        return slice(own[where.start], own[where.stop - 1] + 1)

    def scalars(self, rows: NDArray[np.void], slots: NDArray[np.int32], back: NDArray[np.int32]) -> Scalars:
        """Those of the window, which sees its own rows: where they lie apart, `rew` and flags of them."""
        own = self._own
        if not self._further_at_the_end:
            return self.window.scalars(rows[:, own[0] :], slots[:, own[0] :], back)
        scalars = np.empty((len(rows), len(own)), _SCALARS)
        for name in _SCALARS.names or ():
            scalars[name] = rows[name][:, own]
        return self.window.scalars(scalars, slots[:, own], back)

    def observed(self, leaf: Leaf, where: Selection) -> Selection:
        """As the window says."""
        return self.window.observed(leaf, where)

    def observation(self, schema: Schema, where: Selection) -> list[Part]:
        """Each leaf's frames, or its action, where the history finds them."""
        parts: list[Part] = []
        for seen, source in zip(schema.seen.leaves, schema.sources, strict=True):
            rows, depth = _back(self.observed(seen, where), source.back), source.depth
            if depth and isinstance(rows, int):
                rows, depth = slice(rows - depth + 1, rows + 1), 0
            parts.append(Part(source.leaf, rows, depth, source.codec))
        return parts


def _back(where: Selection, n: int) -> Selection:
    return where - n if isinstance(where, int) else slice(where.start - n, where.stop - n)


def rebuilt(window: Window, history: History | None) -> Window:
    """The window, with its observations rebuilt if there is a history."""
    return window if history is None else Rebuilt(window, history)


def made_of(settings: dict[str, Any]) -> dict[str, Any]:
    """The window and the history of saved settings; None where there are none."""
    made = {"window": window_from_json, "history": History.from_json}
    return {name: make(settings[name]) if settings.get(name) else None for name, make in made.items()}
