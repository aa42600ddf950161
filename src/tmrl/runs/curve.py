"""The learning curve of a run, as a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

TRAIN, TEST, TARGET = "#8a94a6", "#1769aa", "#c0392b"


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """The return of one finished episode."""

    env_steps: int
    """Steps of the environment when it had ended."""
    episode_return: float
    is_test: bool


def draw_curve(
    path: Path,
    title: str,
    points: Sequence[CurvePoint],
    target: float | None = None,
    final_returns: Sequence[float] = (),
) -> None:
    """Draws the returns of training and test episodes over the steps of the environment.

    Args:
        path: The PNG file to write.
        title: Stands over the picture.
        points: The episodes, in their order.
        target: Mean return to reach, drawn as a line.
        final_returns: Returns of the trained policy's test, drawn as mean and spread at the end.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    _draw_training(axes, [point for point in points if not point.is_test])
    _draw_tests(axes, [point for point in points if point.is_test])
    if target is not None:
        axes.axhline(target, color=TARGET, linewidth=1, linestyle="--", label=f"target {target:g}")
    if final_returns:
        _draw_final(axes, max((point.env_steps for point in points), default=0), final_returns)
    axes.set_title(title, loc="left")
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return of an episode")
    axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
    axes.grid(color="#e3e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=150)


def _draw_training(axes: Axes, points: Sequence[CurvePoint]) -> None:
    if not points:
        return
    steps = [point.env_steps for point in points]
    returns = [point.episode_return for point in points]
    axes.scatter(steps, returns, s=10, color=TRAIN, alpha=0.5, linewidths=0, label="training: episode")
    axes.plot(steps, moving_average(returns), color=TRAIN, linewidth=1.5, label="training: mean of 10")


def _draw_tests(axes: Axes, points: Sequence[CurvePoint]) -> None:
    if not points:
        return
    steps = sorted({point.env_steps for point in points})
    returns = [[point.episode_return for point in points if point.env_steps == step] for step in steps]
    lows, highs = [min(each) for each in returns], [max(each) for each in returns]
    axes.fill_between(steps, lows, highs, color=TEST, alpha=0.15, linewidth=0, label="test: worst to best")
    means = [float(np.mean(each)) for each in returns]
    axes.plot(steps, means, "o-", color=TEST, markersize=3.5, linewidth=1.5, label="test: mean")


def _draw_final(axes: Axes, env_steps: int, returns: Sequence[float]) -> None:
    mean, spread = float(np.mean(returns)), float(np.std(returns))
    label = f"final test: {mean:.0f} ± {spread:.0f}"
    axes.errorbar(env_steps, mean, spread, fmt="D", color=TEST, capsize=4, markersize=6, label=label)


def moving_average(values: Sequence[float], width: int = 10) -> list[float]:
    """The mean of each value and those before it, up to `width` in all."""
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(values, np.float64))])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - width)
    return ((sums[ends] - sums[starts]) / (ends - starts)).tolist()
