"""Figures: what is worth seeing of the contents of a dataset, and the words beneath it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tmrl.inspection.contents import Action, Contents
from tmrl.inspection.facts import Facts
from tmrl.inspection.statistics import Histogram
from tmrl.inspection.svg import Axis, Plot, text
from tmrl.inspection.words import counted, number, unit_of

MAX_DOTS = 2000
"""Episodes that are drawn one by one; more are put together."""
N_GROUPS = 250
N_BARS = 40


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot, or several, with a heading and a caption."""

    heading: str
    caption: str
    plots: tuple[str, ...]
    """As HTML."""


def figures(contents: Contents, facts: Facts) -> list[Figure]:
    """All figures that there are data for."""
    whole = np.flatnonzero(contents.is_whole & np.isfinite(contents.returns))
    drawn = [
        _series("Returns", "return", whole, contents.returns[whole]),
        _series("Episode lengths", "transitions", whole, contents.lengths[whole]),
        _rewards(contents.rewards),
        _ages(facts),
    ]
    found = [figure for figure in [*drawn, *map(_action, contents.actions)] if figure is not None]
    # Those that take the whole width come last, so that the others fill their lines.
    return sorted(found, key=lambda figure: len(figure.plots) > 1)


def _series(heading: str, what: str, places: NDArray[np.int64], values: NDArray[np.number]) -> Figure | None:
    """Values of whole episodes in the order of the episodes."""
    if not len(values):
        return None
    values = values.astype(np.float64)
    low, high, n = float(values.min()), float(values.max()), len(values)
    described = f"{counted(n, 'whole episode')}, from {number(low)} to {number(high)}."
    x = Axis.of(0, max(1, int(places[-1])))
    plot = Plot(x, Axis.of(low, high, is_padded=True), heading, described, "episode, oldest first", what)
    if n <= MAX_DOTS:
        plot.dots(places, values)
        width = max(5, n // 25)
        caption = f"Each dot is a whole episode; the line is the mean of {width}."
        if n > width:
            means = np.convolve(values, np.full(width, 1 / width), "valid")
            plot.line(places[width - 1 :], means)
    else:
        ends = np.linspace(0, n, N_GROUPS + 1).astype(np.int64)[:-1]
        sizes = np.diff(np.append(ends, n))
        xs = places[ends + sizes // 2].tolist()
        plot.band(xs, np.minimum.reduceat(values, ends).tolist(), np.maximum.reduceat(values, ends).tolist())
        plot.line(xs, np.add.reduceat(values, ends) / sizes)
        caption = f"Mean, and band from lowest to highest, of each {n // N_GROUPS:,} whole episodes."
    return Figure(heading, caption, (plot.html(),))


def _rewards(histogram: Histogram) -> Figure | None:
    if not len(histogram.counts):
        return None
    plot = _bars(histogram, "Rewards", "reward", "transitions")
    return Figure("Rewards", f"Of {counted(int(histogram.counts.sum()), 'transition')}.", (plot,))


def _action(action: Action) -> Figure | None:
    histograms, name = action.histograms, action.leaf.name
    n = len(action.extent.n)
    if not any(len(histogram.counts) for histogram in histograms):
        return None
    if len(histograms) == n:
        names = zip(histograms, action.labels, strict=True)
        y_name = "transitions" if n == 1 else ""
        plots = [
            _bars(histogram, label, label, y_name) for histogram, label in names if len(histogram.counts)
        ]
        caption = "Of all transitions." if n == 1 else "Of all transitions; each plot has its own scale."
        return Figure(f"Action: {name}", caption, tuple(plots))
    pooled = _bars(histograms[0], name, f"all {n:,} components", "values")
    return Figure(
        f"Action: {name}",
        f"All {n:,} components together; and each: its mean, and a band from its lowest to its highest.",
        (pooled, _components(action)),
    )


def _components(action: Action) -> str:
    """Range and mean of each component of a large action."""
    extent = action.extent
    shown = np.flatnonzero(extent.n > 0)
    # Of thousands, every so many-th.
    shown = shown[:: max(1, len(shown) // MAX_DOTS)]
    low, high, mean = extent.low[shown], extent.high[shown], extent.mean[shown]
    described = f"{counted(len(extent.n), 'component')}, from {number(low.min())} to {number(high.max())}."
    x, y = Axis.of(0, len(extent.n) - 1), Axis.of(float(low.min()), float(high.max()), is_padded=True)
    plot = Plot(x, y, f"{action.leaf.name} by component", described, "component", "value")
    plot.band(shown.tolist(), low.tolist(), high.tolist())
    plot.line(shown, mean)
    return plot.html()


def _ages(facts: Facts) -> Figure | None:
    ages_s, n_rows = facts.arrivals()
    if not len(ages_s) or ages_s.max() <= 0:
        return None
    per_unit, unit = unit_of(float(ages_s.max()))
    counts, edges = np.histogram(
        ages_s / per_unit, N_BARS, (0, float(ages_s.max() / per_unit)), weights=n_rows
    )
    spans = list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
    names = [
        f"{left:.3g} to {right:.3g} {unit}: {n:,.0f} rows"
        for (left, right), n in zip(spans, counts, strict=True)
    ]
    described = f"{counted(int(n_rows.sum()), 'row')}, up to {number(edges[-1], 3)} {unit} old."
    x, y = Axis.of(0, float(edges[-1])), Axis.of(0, float(counts.max()) * 1.05, 4)
    plot = Plot(x, y, "Ages of rows", described, f"{unit} before the newest row", "rows")
    plot.bars(spans, counts.tolist(), names)
    return Figure("Ages", "When the rows arrived, counted back from the newest.", (plot.html(),))


def _bars(histogram: Histogram, title: str, x_name: str, y_name: str) -> str:
    histogram = histogram.coarse(N_BARS)
    counts, width = histogram.counts, histogram.width
    lefts: list[float] = (histogram.low + width * np.arange(len(counts))).tolist()
    is_each = histogram.is_whole and width == 1
    # A bar of one whole number stands over it.
    shift = -width / 2 if is_each else 0.0
    spans = [(left + shift, left + shift + width) for left in lefts]
    names = [
        f"{number(left)}{'' if is_each else f' to {number(left + width)}'}: {n:,}"
        for left, n in zip(lefts, counts.tolist(), strict=True)
    ]
    described = (
        f"{counted(int(counts.sum()), 'value')} from {number(lefts[0])} to {number(lefts[-1] + width)}."
    )
    x = Axis.of(spans[0][0], spans[-1][1], 4)
    if is_each and len(counts) <= 10:
        x = Axis(x.low, x.high, {left: number(left) for left in lefts})
    plot = Plot(x, Axis.of(0, float(counts.max()) * 1.05, 4), title, described, x_name, y_name)
    gap = 0.12 * width if is_each else 0.0
    plot.bars([(left + gap, right - gap) for left, right in spans], counts.tolist(), names)
    return plot.html()


def figure_html(figure: Figure) -> str:
    """A figure as HTML."""
    n = len(figure.plots)
    kind = "one" if n == 1 else "two" if n == 2 else "many"
    return (
        f'<figure class="card {kind}"><h3>{text(figure.heading)}</h3>'
        f'<div class="plots">{"".join(figure.plots)}</div>'
        f"<figcaption>{text(figure.caption)}</figcaption></figure>"
    )
