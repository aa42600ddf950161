"""Plots as inline SVG that stretches to the width it is given, with labels that do not.

The picture is drawn in a square of 1000 by 1000 units and stretched to its box; lines and dots keep their
thickness, and labels are text of the page around it, placed in percent. So a plot reads the same on a narrow
screen and on a wide one, and takes its colours from the page, light or dark.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

from tmrl.inspection.words import printable

SIDE = 1000


def text(content: str) -> str:
    """Text as it may stand in HTML, in XML, and in an attribute."""
    return escape(printable(content))


@dataclass(frozen=True, slots=True)
class Axis:
    """A range of numbers, and those of them that are written beside it."""

    low: float
    high: float
    ticks: dict[float, str]

    @staticmethod
    def of(low: float, high: float, n_ticks: int = 5, is_padded: bool = False) -> "Axis":
        """An axis from `low` to `high`, wider if it is padded or there is nothing between them."""
        if not low < high:
            margin = max(0.5, abs(low) * 0.1)
            low, high = low - margin, high + margin
        elif is_padded:
            margin = high / 25 - low / 25
            low, high = low - margin, high + margin
        return Axis(low, high, ticks(low, high, n_ticks))

    def at(self, value: float) -> float:
        """Where a number stands, from 0 to `SIDE`."""
        # Halved, because the difference may be out of the range of floats.
        return SIDE * (value / 2 - self.low / 2) / (self.high / 2 - self.low / 2)


def ticks(low: float, high: float, n: int) -> dict[float, str]:
    """About `n` round numbers between two others, and how they are written."""
    raw = (high / n - low / n) or 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.75)
    places = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    return {place * step: _written(place * step, step) for place in places}


def _written(value: float, step: float) -> str:
    if abs(value) < step / 2:
        return "0"
    if abs(value) >= 1e9 or step < 1e-4:
        return f"{value:.3g}"
    if step >= 1e6:
        return f"{value / 1e6:,g}M"
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:,.{decimals}f}"


@dataclass(slots=True)
class Plot:
    """Marks between two axes.

    Args:
        x: The axis below.
        y: The axis at the left.
        title: What it shows, for those who cannot see it.
        description: What there is to see.
        x_name: What stands below.
        y_name: What stands at the left.
    """

    x: Axis
    y: Axis
    title: str
    description: str
    x_name: str = ""
    y_name: str = ""
    _marks: list[str] = field(default_factory=list[str])

    def line(self, xs: Iterable[float], ys: Iterable[float]) -> None:
        """A line through points."""
        self._marks.append(f'<polyline class="line" points="{self._points(xs, ys)}"/>')

    def band(self, xs: Sequence[float], lows: Sequence[float], highs: Sequence[float]) -> None:
        """An area between two lines."""
        around = self._points([*xs, *xs[::-1]], [*highs, *lows[::-1]])
        self._marks.append(f'<polygon class="band" points="{around}"/>')

    def dots(self, xs: Iterable[float], ys: Iterable[float]) -> None:
        """Dots: lines without a length, whose round ends stay round when the picture is stretched."""
        path = "".join(f"M{point}h0" for point in self._points(xs, ys).split())
        self._marks.append(f'<path class="dots" d="{path}"/>')

    def bars(
        self, edges: Sequence[tuple[float, float]], heights: Sequence[float], names: Sequence[str]
    ) -> None:
        """Bars from zero up, each with a name that shows when one points at it."""
        foot = self.y.at(0)
        for (left, right), height, name in zip(edges, heights, names, strict=True):
            if height <= 0:
                continue
            x, top = self.x.at(left), self.y.at(height)
            # A bar of one among thousands can still be seen.
            tall = max(top - foot, 6.0)
            self._marks.append(
                f'<rect class="bar" x="{x:.1f}" y="{SIDE - foot - tall:.1f}" '
                f'width="{self.x.at(right) - x:.1f}" height="{tall:.1f}"><title>{text(name)}</title></rect>'
            )

    def _points(self, xs: Iterable[float], ys: Iterable[float]) -> str:
        places = zip(map(self.x.at, xs), map(self.y.at, ys), strict=True)
        return " ".join(f"{x:.1f},{SIDE - y:.1f}" for x, y in places)

    def html(self) -> str:
        """The plot with its labels."""
        grid = "".join(
            f'<line class="{"zero" if value == 0 else "grid"}" x1="0" x2="{SIDE}" y1="{y:.1f}" y2="{y:.1f}"/>'
            for value in self.y.ticks
            for y in [SIDE - self.y.at(value)]
        )
        y_labels = "".join(
            f'<span style="bottom:{self.y.at(value) / SIDE:.2%}">{label}</span>'
            for value, label in self.y.ticks.items()
        )
        x_labels = "".join(
            f'<span style="left:{self.x.at(value) / SIDE:.2%}">{label}</span>'
            for value, label in self.x.ticks.items()
        )
        width = max(map(len, self.y.ticks.values()), default=1)
        y_name = f'<p class="y-name">{text(self.y_name)}</p>' if self.y_name else ""
        x_name = f'<p class="x-name">{text(self.x_name)}</p>' if self.x_name else ""
        return (
            f'<div class="plot" style="--labels:{width}ch">{y_name}<div class="y-labels">{y_labels}</div>'
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {SIDE} {SIDE}" '
            f'preserveAspectRatio="none"><title>{text(self.title)}</title>'
            f"<desc>{text(self.description)}</desc>{grid}{''.join(self._marks)}</svg>"
            f'<div class="x-labels">{x_labels}</div>{x_name}</div>'
        )
