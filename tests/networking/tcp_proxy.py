"""A TCP proxy on loopback that treats connections as bad networks do: it cuts, pauses and refuses them."""

import contextlib
import random
import socket
import struct
import threading
from typing import Self

CHUNK = 1 << 16
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER that makes `close` a reset: what is on its way is gone."""


class TcpProxy:
    """Forwards connections to a port of this machine.

    Args:
        rng: Chooses where connections are cut.
        cut_within: Each connection is cut after a random number of bytes, both ways together, below this;
            None cuts none. May be changed at any time, for connections that come later.

    Attributes:
        port: Where it listens.
        target: Port to forward to; may be changed at any time. None refuses connections.
        cuts: Connections that were cut.
    """

    def __init__(self, rng: random.Random, cut_within: int | None = None) -> None:
        self.target: int | None = None
        self.cut_within = cut_within
        self.cuts = 0
        self._rng = rng
        self._flows = threading.Event()
        self._flows.set()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, name="proxy", daemon=True)
        self._acceptor.start()

    def pause(self) -> None:
        """Lets nothing pass, and tells nobody: both ends see a line that is silent."""
        self._flows.clear()

    def go_on(self) -> None:
        """Lets bytes pass again."""
        self._flows.set()

    def cut(self) -> None:
        """Cuts all connections now."""
        with self._lock:
            ends = list(self._open)
        for end in ends:
            self._reset(end)

    def _accept(self) -> None:
        while True:
            try:
                ours, _ = self._listener.accept()
            except OSError:
                return
            try:
                theirs = socket.create_connection(("127.0.0.1", self.target or 0), timeout=5)
            except OSError:
                self._reset(ours)
                continue
            theirs.settimeout(None)
            with self._lock:
                self._open |= {ours, theirs}
            budget = None if self.cut_within is None else [self._rng.randrange(self.cut_within)]
            for source, sink in ((ours, theirs), (theirs, ours)):
                threading.Thread(target=self._pump, args=(source, sink, budget), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, budget: list[int] | None) -> None:
        with contextlib.suppress(OSError):
            while octets := source.recv(CHUNK):
                self._flows.wait()
                if budget is not None:
                    with self._lock:
                        allowed, budget[0] = budget[0], max(0, budget[0] - len(octets))
                    if len(octets) > allowed:
                        sink.sendall(octets[:allowed])
                        self.cuts += 1
                        break
                sink.sendall(octets)
        for end in (source, sink):
            self._reset(end)

    def _reset(self, end: socket.socket) -> None:
        with self._lock:
            self._open.discard(end)
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            end.shutdown(socket.SHUT_RDWR)
        end.close()

    def close(self) -> None:
        """Cuts everything and gives the port back."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._flows.set()
        self.cut()
        self._acceptor.join(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
