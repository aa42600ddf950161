"""Keeper: makes the checkpoints of a run, and ends the run at Ctrl-C, always between two training steps."""

import signal
import threading
import time
from collections.abc import Callable
from typing import Any, Self

from tmrl.actor import ActorModule
from tmrl.buffer import Buffer
from tmrl.runs.journal import Journal
from tmrl.training import Checkpoint, SampleSource, TrainingOffline
from tmrl.training.source import line_of

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Keeper:
    """Stands between the journal and the training, as its source and observer, and saves both now and then.

    While it is entered, Ctrl-C (or SIGTERM) waits until the training step is done and saved; a second one
    does not wait, and leaves the checkpoint that is there.

    Args:
        checkpoint: Where to.
        training: What to save.
        journal: Saved with it; hears of everything first.
        interval_s: Seconds from the end of one save to the next.
        clock: Seconds; monotonic.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        training: TrainingOffline,
        journal: Journal,
        interval_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._checkpoint = checkpoint
        self._training = training
        self._journal = journal
        self._interval_s = interval_s
        self._clock = clock
        self._saved_at = clock()
        self._is_ending = False
        self._handlers: dict[signal.Signals, Any] = {}

    @property
    def source(self) -> SampleSource:
        """Where the journal has it from."""
        return self._journal.source

    def retrieve_buffer(self) -> Buffer:
        """Passes on what the journal has.

        Raises:
            KeyboardInterrupt: Ctrl-C came before the first training step, for which a run may wait long.
        """
        if self._is_ending and not self._journal.updates:
            self.save()
        return self._journal.retrieve_buffer()

    def broadcast_model(self, actor: ActorModule) -> None:
        """Passes the policy on."""
        self._journal.broadcast_model(actor)

    def on_update(self, training: TrainingOffline, metrics: dict[str, Any]) -> None:
        """Tells the journal, and saves if it is time; for `TrainingOffline.on_update`.

        Raises:
            KeyboardInterrupt: Ctrl-C came; what it interrupts is saved.
        """
        self._journal.on_update(training, metrics)
        if self._is_ending or self._clock() - self._saved_at >= self._interval_s:
            self.save()

    def save(self) -> None:
        """Saves the training and the journal.

        Raises:
            KeyboardInterrupt: As in `on_update`.
        """
        self._checkpoint.save(self._training, self._journal.state(), line_of(self.source))
        self._saved_at = self._clock()
        if self._is_ending:
            raise KeyboardInterrupt

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # only there can signals be caught
            self._handlers = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _note(self, *_: object) -> None:
        if self._is_ending:
            raise KeyboardInterrupt
        self._is_ending = True
