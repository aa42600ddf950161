"""Crew: worker processes on this machine, which end with the process that started them, however that ends."""

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from tmrl.errors import CrewError

logger = logging.getLogger(__name__)

END_S = 15.0
"""How long a process may take to end by itself."""
RESTART_PAUSE_S = 1.0
MAX_FAILURES = 3
"""In a row, each within `SOON_S`; then the crew gives up."""
SOON_S = 30.0
WRONG_CALL = 2
"""Exit code of a command that would fail again."""


@dataclass(slots=True)
class _Member:
    arguments: list[str]
    process: "subprocess.Popen[bytes]"
    started_at: float
    failures: int = 0
    last_words: str = "it said nothing"
    reader: threading.Thread | None = None

    def close_pipes(self) -> None:
        """Closes the pipes of a process that has ended, once all of its words are read."""
        if self.reader is not None:
            self.reader.join()
        for pipe in (self.process.stdin, self.process.stderr):
            if pipe is not None:
                pipe.close()


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

    def _started(self, arguments: list[str]) -> _Member:
        command = [sys.executable, "-m", "tmrl", *arguments, "--until-stdin-closes"]
        process = subprocess.Popen(  # noqa: S603 - our own command
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            # Ctrl-C in the terminal is for the parent, which tells its children.
            start_new_session=True,
        )
        member = _Member(arguments, process, time.monotonic())
        member.reader = threading.Thread(target=self._read_words, args=(member,), daemon=True)
        member.reader.start()
        return member

    def _read_words(self, member: _Member) -> None:
        """Passes on what a process has to say until it ends; a pipe that nobody reads would stop it."""
        for line in member.process.stderr or ():
            words = line.decode(errors="replace").strip()
            member.last_words = words.removeprefix("tmrl: ") or member.last_words
            if not self._is_closed and words == member.last_words:  # else `_restart` tells it
                logger.warning("%s: %s", member.arguments[0], words)

    def check(self) -> None:
        """Checks that the crew has not given up.

        Raises:
            CrewError: It has; the message has the last words of the process.
        """
        if self.failure is not None:
            raise CrewError(self.failure)

    def _restart_failed(self) -> None:
        while not self._is_closed and self.failure is None:
            with self._lock:
                for index, member in enumerate(self._members):
                    if not self._is_closed and member.process.poll():
                        self._restart(index, member)
            time.sleep(RESTART_PAUSE_S / 5)

    def _restart(self, index: int, member: _Member) -> None:
        member.close_pipes()
        is_soon = time.monotonic() - member.started_at < SOON_S
        failures = member.failures + 1 if is_soon else 1
        told = f"`tmrl {member.arguments[0]}` failed with {member.process.returncode}: {member.last_words}"
        if failures >= MAX_FAILURES or member.process.returncode == WRONG_CALL:
            self.failure = told if failures == 1 else f"{told}; it failed {failures} times in a row"
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
                member.close_pipes()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
