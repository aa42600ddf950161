"""When a process that another one started is to end: at Ctrl-C, at SIGTERM, or when the other one is gone."""

import os
import signal
import sys
import threading
from collections.abc import Generator
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
    """Lets SIGTERM interrupt, as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    handler = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


@contextmanager
def interruptible() -> Generator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second one interrupts as ever."""
    is_over = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)

    def note(*_: object) -> None:
        if is_over.is_set():
            raise KeyboardInterrupt
        is_over.set()

    handlers = {number: signal.signal(number, note) for number in numbers}
    try:
        yield is_over
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
