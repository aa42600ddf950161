"""When a process that another one started is to end: at Ctrl-C, at SIGTERM, or when the other one is gone."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager


def follow_stdin() -> None:
    """Interrupts this process when its standard input ends.

    A pipe ends with the process that holds its other end, however that ends; no signal could be relied on.
    """
    threading.Thread(target=_interrupt_at_end, args=(sys.stdin.fileno(),), daemon=True).start()


def _interrupt_at_end(stdin: int) -> None:
    while os.read(stdin, 4096):
        pass
    signal.raise_signal(signal.SIGINT) if os.name == "nt" else os.kill(os.getpid(), signal.SIGINT)


@contextmanager
def terminable() -> Generator[None]:
    """Lets SIGTERM interrupt, as Ctrl-C does; and SIGINT, which shells let their background jobs ignore."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with _handled(interrupt):
        yield


@contextmanager
def interruptible() -> Generator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second one interrupts as ever."""
    is_over = threading.Event()

    def note(*_: object) -> None:
        if is_over.is_set():
            raise KeyboardInterrupt
        is_over.set()

    with _handled(note):
        yield is_over


@contextmanager
def _handled(handler: Callable[..., None]) -> Generator[None]:
    handlers = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, earlier in handlers.items():
            signal.signal(number, earlier)
