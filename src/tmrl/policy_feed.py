"""The policy of a worker, the line that newer ones come from, and the files that they go to."""

import logging
from datetime import datetime
from typing import Any

from tmrl.actor import ActorModule
from tmrl.buffer import Buffer
from tmrl.errors import StalledError
from tmrl.policy_files import PolicyFiles
from tmrl.sink import Received, Sink

logger = logging.getLogger(__name__)


def check_has_line(kind: str, sink: Sink | None, standalone: bool) -> None:
    """Checks that a worker's samples have somewhere to go.

    Raises:
        ValueError: There is no sink, and the worker is not a standalone one.
    """
    if sink is None and not standalone:
        raise ValueError(
            f"a {kind} needs a line to its trainer, got none; pass sink=, or standalone=True to "
            "keep the samples in worker.buffer"
        )


class PolicyFeed:
    """Sends what a worker collects, and takes the policies that come in return.

    Args:
        worker_id: Name of the worker, for messages.
        actor: The first policy; that in its file is taken instead, if there is one.
        device: Where policies compute.
        files: Where the policies are read and written.
        sink: The line to the trainer; None for a worker without one.
        wait_limit_s: Longest wait for a policy.

    Attributes:
        worker_id: As given.
        actor: The policy, replaced when a new one arrives.
        device: As given.
        sink: As given; may be set later.
        version: Which of the trainer's policies acts, counting from 1; 0 before the first.
        is_again: Whether what `update` took last was the policy that acted already, sent once more.
    """

    def __init__(
        self,
        worker_id: str,
        actor: ActorModule,
        device: Any,
        files: PolicyFiles,
        sink: Sink | None,
        wait_limit_s: float,
    ) -> None:
        self.actor = files.read(actor.to_device(device), device)
        self.device = device
        self.sink = sink
        self.version = 0
        self.is_again = False
        self.worker_id = worker_id
        self._files = files
        self._wait_limit_s = wait_limit_s

    def send(self, buffer: Buffer) -> None:
        """Hands a buffer to the sink and clears it; without a sink it stays as it is."""
        if self.sink is not None:
            self.sink.send(buffer)
            buffer.clear()

    def update(self, verbose: bool, blocking: bool) -> int:
        """Takes the newest policy that arrived; see `RolloutWorker.update_actor_weights`."""
        count, actor, version, self.is_again = self._receive(blocking, self.actor)
        if actor is None:
            return 0
        self.actor = actor.to_device(self.device)
        self.version = version
        self._files.write(self.actor, count)
        if verbose:
            logger.info("%s: took policy %d", self.worker_id, self.version)
        return count

    def ignore(self) -> int:
        """Drops the policies that arrived and returns how many they were."""
        return self._receive(blocking=False, actor=None).n_policies

    def _receive(self, blocking: bool, actor: ActorModule | None) -> Received:
        if self.sink is None:
            if blocking:
                raise ValueError("a standalone worker cannot wait for a policy: it has no sink; pass sink=")
            return Received(0, None, self.version)
        since = datetime.now().astimezone()
        received = self.sink.receive(self._wait_limit_s if blocking else 0.0, actor)
        if blocking and not received.n_policies:
            raise StalledError(
                f"worker {self.worker_id!r} has awaited a policy from {self.sink.peer} since {since:%X}, "
                f"more than wait_limit_s={self._wait_limit_s:g}; {self.version} came before; "
                "see whether the trainer runs, or raise the limit"
            )
        return received
