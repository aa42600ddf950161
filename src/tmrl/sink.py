"""Sink: the seam between a worker and whatever carries its samples to a trainer."""

from typing import Protocol

from tmrl.actor import ActorModule
from tmrl.buffer import Buffer


class Sink(Protocol):
    """The worker's end of the line to its trainer."""

    @property
    def peer(self) -> str:
        """Who is at the other end, for messages."""
        ...

    def send(self, buffer: Buffer) -> None:
        """Takes over the samples and episodes in `buffer`; the Buffer itself stays the worker's."""
        ...

    def receive(self, timeout_s: float) -> tuple[int, ActorModule | None]:
        """Fetches the newest policy.

        Args:
            timeout_s: How long to wait for one if there is none; 0 does not wait.

        Returns:
            How many policies came since the last call, and the newest, now the worker's own; else 0 and None.
        """
        ...
