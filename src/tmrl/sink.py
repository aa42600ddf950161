"""Sink: the seam between a worker and whatever carries its samples to a trainer."""

from typing import NamedTuple, Protocol

from tmrl.actor import ActorModule
from tmrl.buffer import Buffer


class Received(NamedTuple):
    """What came from the trainer."""

    n_policies: int
    """How many policies came since the last call."""
    actor: ActorModule | None
    """The newest of them, now the worker's own; None if there was none."""
    version: int
    """How many policies the trainer has sent by then, whoever heard them."""
    is_again: bool = False
    """Whether the newest is, bit by bit, the one that was fetched before: its trainer waits for samples."""


class Sink(Protocol):
    """The worker's end of the line to its trainer."""

    @property
    def peer(self) -> str:
        """Who is at the other end, for messages."""
        ...

    def send(self, buffer: Buffer) -> None:
        """Takes over the samples and episodes in `buffer`; the Buffer itself stays the worker's."""
        ...

    def receive(self, timeout_s: float, actor: ActorModule | None) -> Received:
        """Fetches the newest policy.

        Args:
            timeout_s: How long to wait for one if there is none; 0 does not wait.
            actor: The worker's policy so far; a line that carries bytes has it load them. None drops the
                policy that came.
        """
        ...
