"""Crew: worker processes on this machine, which end with the process that started them, however that ends."""

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

logger = logging.getLogger(__name__)

END_S = 15.0
"""How long a process may take to end by itself."""
RESTART_PAUSE_S = 1.0
MAX_FAILURES = 3
"""In a row, each within `SOON_S`; then the crew gives up."""
SOON_S = 30.0


@dataclass(slots=True)
class _Member:
    arguments: list[str]
    process: "subprocess.Popen[bytes]"
    started_at: float
    failures: int = 0


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
        return _Member(arguments, process, time.monotonic())

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
        words = b"" if member.process.stderr is None else member.process.stderr.read()
        last = words.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
        is_soon = time.monotonic() - member.started_at < SOON_S
        failures = member.failures + 1 if is_soon else 1
        told = f"`tmrl {' '.join(member.arguments)}` failed with {member.process.returncode}: {last[0]}"
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
                if member.process.stderr is not None:
                    member.process.stderr.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
