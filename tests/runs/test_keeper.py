"""When a run is saved, and what Ctrl-C waits for."""

import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tmrl.runs.keeper import Keeper


class Recorder:
    """Stands for checkpoint and journal, and notes what is asked of them."""

    source = None

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.updates = 0
        self.now = 0.0

    def save(self, run: Any, notes: Any, line: Any) -> None:
        self.events.append(("save", run.total_updates, notes))
        self.now += 5.0

    def state(self) -> Any:
        return {"updates": self.updates}

    def on_update(self, run: Any, metrics: Any) -> None:
        self.updates += 1
        run.total_updates += 1

    def retrieve_buffer(self) -> Any:
        self.events.append("retrieve")


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def keeper_of(recorder: Any, interval_s: float = 60.0) -> tuple[Keeper, Any]:
    training: Any = SimpleNamespace(total_updates=0)
    return Keeper(recorder, training, recorder, interval_s, clock=lambda: recorder.now), training


def test_a_run_is_saved_when_the_interval_has_passed_since_the_last_save(recorder: Recorder) -> None:
    keeper, training = keeper_of(recorder, 10.0)
    for now in (1.0, 9.9, 10.0, 20.0, 24.9, 25.0):
        recorder.now = now
        keeper.on_update(training, {})
    assert recorder.events == [("save", 3, {"updates": 3}), ("save", 6, {"updates": 6})]


def test_an_interval_of_nothing_saves_each_update(recorder: Recorder) -> None:
    keeper, training = keeper_of(recorder, 0.0)
    for _ in range(3):
        keeper.on_update(training, {})
    assert len(recorder.events) == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_waits_for_the_step_and_is_saved(number: int, recorder: Recorder) -> None:
    keeper, training = keeper_of(recorder)
    before = signal.getsignal(number)
    with keeper:
        keeper.on_update(training, {})
        signal.raise_signal(number)
        keeper.retrieve_buffer()
        with pytest.raises(KeyboardInterrupt):
            keeper.on_update(training, {})
    assert recorder.events == ["retrieve", ("save", 2, {"updates": 2})]
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_does_not_wait(recorder: Recorder) -> None:
    keeper, _ = keeper_of(recorder)
    with keeper:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert recorder.events == []


def test_ctrl_c_before_the_first_update_does_not_wait_for_it(recorder: Recorder) -> None:
    keeper, _ = keeper_of(recorder)
    with keeper:
        keeper.retrieve_buffer()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            keeper.retrieve_buffer()
    assert recorder.events == ["retrieve", ("save", 0, {"updates": 0})]


def test_in_another_thread_signals_are_left_alone(recorder: Recorder, tmp_path: Path) -> None:
    handlers: list[Any] = []

    def enter() -> None:
        with keeper_of(recorder)[0]:
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join(10)
    assert handlers == [signal.getsignal(signal.SIGINT)]
