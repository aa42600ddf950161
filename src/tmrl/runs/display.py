"""What a run shows while it goes: a live panel on a terminal, a line now and then elsewhere."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Where a run stands."""

    updates: int
    updates_planned: int
    updates_per_s: float
    env_steps: int
    return_train: float | None
    """Return of the newest training episode, if one has ended."""
    return_test: float | None
    """Return of the newest test episode, if one has ended."""
    transitions: int
    capacity: int
    age_rows: float
    """Median age of the newest batch, in steps."""
    age_s: float
    """Median age of the newest batch, in seconds."""
    sampling_share: float
    """Share of sampling in the time of the training steps."""


class Display(ABC):
    """Shows snapshots, each as soon as it is due.

    Args:
        console: Where to.
        interval_s: Seconds from one snapshot to the next.
        clock: Seconds; monotonic.
    """

    def __init__(
        self, console: Console, interval_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.console = console
        self._interval_s = interval_s
        self._clock = clock
        self._shown_at = -interval_s

    def update(self, take_snapshot: Callable[[], Snapshot], is_last: bool = False) -> None:
        """Shows a snapshot if one is due, or the last; only then is it taken."""
        if is_last or self._clock() - self._shown_at >= self._interval_s:
            self._show(take_snapshot())
            self._shown_at = self._clock()

    @abstractmethod
    def _show(self, snapshot: Snapshot) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:  # noqa: B027 - lines need no end
        """Leaves the last snapshot on the screen."""


class PlainDisplay(Display):
    """One line every few seconds, for files and pipes."""

    def __init__(
        self, console: Console, interval_s: float = 5.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(console, interval_s, clock)

    def _show(self, snapshot: Snapshot) -> None:
        line = "  ".join(f"{name} {value}" for name, value in described(snapshot).items())
        self.console.print(line, soft_wrap=True, highlight=False)


class LiveDisplay(Display):
    """A panel that is drawn anew a few times a second."""

    def __init__(
        self,
        console: Console,
        title: str,
        interval_s: float = 0.25,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(console, interval_s, clock)
        self._title = title
        self._live = Live(console=console, auto_refresh=False)

    def _show(self, snapshot: Snapshot) -> None:
        self._live.update(panel(self._title, snapshot), refresh=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()


def make_display(console: Console, title: str) -> Display:
    """The display that suits the console."""
    return LiveDisplay(console, title) if console.is_terminal else PlainDisplay(console)


def described(snapshot: Snapshot) -> dict[str, str]:
    """The figures of a snapshot by name, in words."""
    fill = snapshot.transitions / snapshot.capacity
    return {
        "env steps": f"{snapshot.env_steps:,}",
        "updates": f"{snapshot.updates:,}/{snapshot.updates_planned:,}",
        "updates/s": f"{snapshot.updates_per_s:.0f}",
        "train return": _or_dash(snapshot.return_train),
        "test return": _or_dash(snapshot.return_test),
        "memory": f"{snapshot.transitions:,}/{snapshot.capacity:,} ({fill:.1%})",
        "sample age": f"{snapshot.age_rows:,.0f} steps, {snapshot.age_s:.1f} s",
        "sampling": f"{snapshot.sampling_share:.1%} of the time",
    }


def panel(title: str, snapshot: Snapshot) -> Panel:
    """The figures of a snapshot in two columns, under a bar of the updates done."""
    grid = Table.grid(padding=(0, 2), expand=True)
    for style in ("dim", "bold", "dim", "bold"):
        grid.add_column(style=style, no_wrap=True)
    figures = list(described(snapshot).items())
    for left, right in zip(figures[::2], figures[1::2], strict=True):
        grid.add_row(*left, *right)
    bar = ProgressBar(total=snapshot.updates_planned, completed=snapshot.updates)
    return Panel(Group(bar, "", grid), title=title, title_align="left", width=88, padding=(1, 2))


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
