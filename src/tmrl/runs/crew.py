"""Crew: worker processes on this machine, which end with the process that started them, however that ends."""

import logging
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Self

logger = logging.getLogger(__name__)

END_S = 15.0
"""How long a process may take to end by itself."""
RESTART_PAUSE_S = 1.0
MAX_FAILURES = 3
"""In a row, each within `SOON_S`; then the crew gives up."""
SOON_S = 30.0
LINES_KEPT = 20
WORDS_S = 5.0
"""How long the last words of a process that has ended may take to arrive."""


@dataclass(slots=True)
class _Member:
    arguments: list[str]
    process: "subprocess.Popen[bytes]"
    words: "_LastWords"
    started_at: float
    failures: int = 0


class _LastWords(threading.Thread):
    """Reads what a process has to say, so that it never waits for a reader, and keeps the end of it."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(name="tmrl-crew-words", daemon=True)
        self._stream = stream
        self._lines: deque[bytes] = deque(maxlen=LINES_KEPT)
        self.start()

    def run(self) -> None:
        with self._stream:
            self._lines.extend(self._stream)

    def newest(self) -> str:
        """The last line, once the process has ended."""
        self.join(WORDS_S)
        lines = b"".join(self._lines).decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


class Crew:
    """Starts commands of this package as processes, and starts anew those that fail.

    Each has a pipe as its standard input, and ends when that closes (`--until-stdin-closes`). So nothing is
    left behind, not even by `kill -9`.

    Args:
        commands: Arguments of each `tmrl` command.

    Attributes:
        failure: Why the crew gave up; None while it has not.
    """

    def __init__(self, commands: Sequence[Sequence[str]]) -> None:
        self.failure: str | None = None
        self._lock = threading.Lock()
        self._is_closed = False
        self._members = [self._started(list(command)) for command in commands]
        self._watch = threading.Thread(target=self._restart_failed, name="tmrl-crew", daemon=True)
        self._watch.start()

    @staticmethod
    def _started(arguments: list[str]) -> _Member:
        command = [sys.executable, "-m", "tmrl", *arguments, "--until-stdin-closes"]
        process = subprocess.Popen(  # noqa: S603 - our own command
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            # Ctrl-C in the terminal is for the parent, which tells its children.
            start_new_session=True,
        )
        assert process.stderr is not None  # noqa: S101 - it is a pipe
        return _Member(arguments, process, _LastWords(process.stderr), time.monotonic())

    def check(self) -> None:
        """Checks that the crew has not given up.

        Raises:
            RuntimeError: It has; the message has the last words of the process.
        """
        if self.failure is not None:
            raise RuntimeError(self.failure)

    def _restart_failed(self) -> None:
        while not self._is_closed and self.failure is None:
            with self._lock:
                for index, member in enumerate(self._members):
                    if not self._is_closed and member.process.poll():
                        self._restart(index, member)
            time.sleep(RESTART_PAUSE_S / 5)

    def _restart(self, index: int, member: _Member) -> None:
        is_soon = time.monotonic() - member.started_at < SOON_S
        failures = member.failures + 1 if is_soon else 1
        command, code = f"`tmrl {' '.join(member.arguments)}`", member.process.returncode
        told = f"{command} failed with {code}: {member.words.newest()}"
        if failures >= MAX_FAILURES:
            self.failure = f"{told}; it failed {failures} times in a row"
            return
        logger.warning("%s; it is started again", told)
        time.sleep(RESTART_PAUSE_S)
        self._members[index] = self._started(member.arguments)
        self._members[index].failures = failures

    def close(self) -> None:
        """Lets all processes end; kills those that take too long."""
        self._is_closed = True
        with self._lock:
            for member in self._members:
                if member.process.stdin is not None:
                    member.process.stdin.close()
            deadline = time.monotonic() + END_S
            for member in self._members:
                try:
                    member.process.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    member.process.kill()
                    member.process.wait()
                member.words.join(WORDS_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
