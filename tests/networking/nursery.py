"""Starts the processes of the line and kills them: one process imports everything, and forks the others.

A process that is forked begins at once, where a new one would import for seconds. Each writes what it has to
tell into a file of its own, every line in one `write`, so that a kill tears none. All end with the nursery,
and the nursery ends with the test, however that ends.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any, Self

START_S = 120.0
END_S = 20.0


class Child:
    """A process that was forked by a nursery.

    Attributes:
        pid: Of the process.
        file: What it tells.
        is_running: Until it was killed, or was seen to have ended.
        code: With which it was seen to have ended; None before.
    """

    def __init__(self, nursery: "Nursery", pid: int, file: Path) -> None:
        self._nursery = nursery
        self.pid = pid
        self.file = file
        self.is_running = True
        self.code: int | None = None

    def lines(self) -> list[list[str]]:
        """What it has told so far, in words; a line that is being written is not told yet."""
        whole, _, _ = self.file.read_text().rpartition("\n")
        return [line.split() for line in whole.splitlines() if line.strip()]

    def told(self, word: str) -> list[str] | None:
        """The newest line that begins with a word, without it."""
        return next((line[1:] for line in reversed(self.lines()) if line[:1] == [word]), None)

    def await_word(self, word: str, timeout_s: float = 60.0) -> list[str]:
        """Waits until it has told a line that begins with a word; fails if it ends before."""
        deadline = time.monotonic() + timeout_s
        while (line := self.told(word)) is None:
            assert time.monotonic() < deadline, f"{word!r} was not told in time: {self.tail()}"
            assert not self.has_ended(), f"it ended before it told {word!r}: {self.tail()}"
            time.sleep(0.01)
        return line

    def tail(self) -> str:
        """Its last words."""
        return self.file.read_text()[-3000:]

    def has_ended(self) -> bool:
        """Whether it is gone; its last lines are then in the file."""
        if self.is_running:
            self.code = self._nursery.ask("poll", pid=self.pid)
            self.is_running = self.code is None
        return not self.is_running

    def kill(self) -> None:
        """Kills it with -9, and returns when it is gone."""
        if self.is_running:
            self._nursery.ask("kill", pid=self.pid)
            self.is_running = False

    def await_end(self, timeout_s: float = END_S) -> None:
        """Waits until it has ended by itself."""
        deadline = time.monotonic() + timeout_s
        while not self.has_ended():
            assert time.monotonic() < deadline, f"it did not end in time: {self.tail()}"
            time.sleep(0.01)


class Nursery:
    """Forks processes that run functions of a module.

    Args:
        module: Of the functions; `f"{module}.{role}"` is called with the arguments of `start`.
        folder: For what they tell.
        preload: Modules to import once.
    """

    def __init__(self, module: str, folder: Path, preload: tuple[str, ...] = ()) -> None:
        self._folder = folder
        self._count = 0
        self._lock = threading.Lock()
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command = [sys.executable, "-m", "networking.nursery", module, *preload]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, order: str, **arguments: Any) -> Any:
        """Gives an order and returns the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps([order, arguments]) + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())

    def start(self, role: str, **arguments: Any) -> Child:
        """Forks a process."""
        self._count += 1
        file = self._folder / f"{self._count:04}-{role}.told"
        file.touch()
        return Child(self, self.ask("start", role=role, file=str(file), arguments=arguments), file)

    def close(self) -> None:
        """Kills the nursery and all of its processes."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def tell(*words: object) -> None:
    """Tells a line, in one `write`."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def _fork(functions: Any, alive: tuple[int, int], role: str, file: str, arguments: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.close(alive[1])
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        threading.Thread(target=_end_with, args=(alive[0],), daemon=True).start()
        getattr(functions, role)(**arguments)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        import traceback

        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def _end_with(descriptor: int) -> None:
    """Ends this process when the nursery is gone."""
    while os.read(descriptor, 1):
        pass
    os._exit(9)


def _poll(pid: int) -> int | None:
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def _kill(pid: int) -> int:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def main(module: str, preload: list[str]) -> None:
    """Obeys until its standard input ends."""
    from importlib import import_module

    functions = import_module(module)
    for name in preload:
        import_module(name)
    alive = os.pipe()
    for line in sys.stdin:
        order, arguments = json.loads(line)
        orders = {"start": partial(_fork, functions, alive), "poll": _poll, "kill": _kill}
        answer = orders[order](**arguments)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
