import io

import pytest
from rich.console import Console

from tmrl.runs.display import LiveDisplay, PlainDisplay, Snapshot, make_display

SNAPSHOT = Snapshot(
    updates=1500,
    updates_planned=5500,
    updates_per_s=123.4,
    env_steps=2000,
    return_train=-321.04,
    return_test=None,
    transitions=1990,
    capacity=10_000,
    age_rows=812.0,
    age_s=6.25,
    sampling_share=0.0123,
)
FIGURES = (
    ("env steps", "2,000"),
    ("updates", "1,500/5,500"),
    ("updates/s", "123"),
    ("train return", "-321.0"),
    ("test return", "-"),
    ("memory", "1,990/10,000 (19.9%)"),
    ("sample age", "812 steps, 6.2 s"),
    ("sampling", "1.2% of the time"),
)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def console(is_terminal):
    return Console(file=io.StringIO(), force_terminal=is_terminal, width=100, color_system=None)


@pytest.mark.parametrize(("is_terminal", "expected"), [(True, LiveDisplay), (False, PlainDisplay)])
def test_the_console_decides_between_panel_and_lines(is_terminal, expected):
    assert isinstance(make_display(console(is_terminal), "title"), expected)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_every_figure_is_shown_with_its_name(is_terminal):
    output = console(is_terminal)
    with make_display(output, "Pendulum-v1 in runs/one") as display:
        display.update(lambda: SNAPSHOT)
    shown = " ".join(output.file.getvalue().split())
    for name, value in FIGURES:
        assert f"{name} {value}" in shown
    assert ("Pendulum-v1 in runs/one" in shown) is is_terminal


def test_a_snapshot_is_taken_only_when_one_is_due():
    clock, taken = Clock(), []

    def take():
        taken.append(clock.now)
        return SNAPSHOT

    display = PlainDisplay(console(is_terminal=False), interval_s=5.0, clock=clock)
    for now in (0.0, 1.0, 4.9, 5.0, 9.9, 10.0):
        clock.now = now
        display.update(take)
    assert taken == [0.0, 5.0, 10.0]
    display.update(take, is_last=True)
    assert taken == [0.0, 5.0, 10.0, 10.0]
