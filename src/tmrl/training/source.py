"""Where samples come from and policies go: the seam between the training loop and its workers."""

import copy
import threading
from typing import Any, Protocol, Self

from tmrl.actor import ActorModule
from tmrl.buffer import Buffer
from tmrl.interval import Interval
from tmrl.sink import Received
from tmrl.vector_worker import VectorWorker
from tmrl.worker import RolloutWorker


class SampleSource(Protocol):
    """The trainer's end of the line to its workers."""

    def retrieve_buffer(self) -> Buffer:
        """Everything that arrived since the last call, in a Buffer of the caller's own; may be empty."""
        ...

    def broadcast_model(self, actor: ActorModule) -> None:
        """Sends the policy as it is now to every worker; the actor stays the caller's."""
        ...


class Line(SampleSource, Protocol):
    """A source that keeps samples until they are safe with the trainer, wherever its workers are.

    What was retrieved may be forgotten at the other end at the next `retrieve_buffer()`; but once `state` was
    called, only when `commit` says so. Save a state and the memory together: they are of one moment.
    """

    max_samples: float
    """Most samples to retrieve at once, or one parcel if that has more; what is beyond stays where it is."""

    def attach(self, memory: Any) -> None:
        """Lets the workers know in what form the memory wants its samples; goes on counting its policies."""
        ...

    def state(self) -> dict[str, Any]:
        """Up to where samples were retrieved; for a checkpoint."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on after what had been retrieved when the state was made; before the first retrieval."""
        ...

    def commit(self, state: dict[str, Any]) -> None:
        """Lets go of what had been retrieved when the state was made."""
        ...


def line_of(source: Any) -> Line | None:
    """The line beneath a source, and beneath those that stand before it and keep it as `source`; or None."""
    return _first_with("commit", source)


def attach(source: Any, memory: Any) -> None:
    """Lets a source, or what is beneath it, know which memory its samples go to, if it wants to know."""
    known = _first_with("attach", source)
    if known is not None:
        known.attach(memory)


def _first_with(method: str, source: Any) -> Any:
    while source is not None and not hasattr(source, method):
        source = getattr(source, "source", None)
    return source


def newest_policy(memory: Any) -> int:
    """The newest policy that acted in what a memory holds; 0 where that is not known."""
    return getattr(memory, "newest_policy", 0)


class InProcessLine:
    """Joins one worker and one trainer in one process: the worker's `Sink`, the trainer's `SampleSource`.

    Thread-safe: the worker may run in a thread of its own, as a real-time environment asks for. Samples are
    handed over by reference, policies as copies.

    Args:
        maxlen: Most samples to hold until the trainer retrieves them; the oldest are dropped beyond it.
    """

    peer = "the trainer in this process"

    def __init__(self, maxlen: int = 500_000) -> None:
        self._maxlen = maxlen
        self._buffer = Buffer(maxlen)
        self._changed = threading.Condition()
        self._policy: ActorModule | None = None
        self._sent = self._heard = 0

    def send(self, buffer: Buffer) -> None:
        """Takes over the samples and episodes in `buffer`."""
        with self._changed:
            self._buffer += buffer

    def receive(self, timeout_s: float, actor: ActorModule | None) -> Received:  # noqa: ARG002
        """Fetches the newest policy, waiting up to `timeout_s` for one; see `Sink.receive`."""
        with self._changed:
            self._changed.wait_for(lambda: self._policy is not None, timeout_s)
            count, self._heard = self._sent - self._heard, self._sent
            policy, self._policy = self._policy, None
            return Received(count, policy, self._sent)

    def attach(self, memory: Any) -> None:
        """Numbers policies on from those that acted in what a memory holds."""
        with self._changed:
            ahead = max(0, newest_policy(memory) - self._sent)
            self._sent, self._heard = self._sent + ahead, self._heard + ahead

    def retrieve_buffer(self) -> Buffer:
        """Everything sent since the last call."""
        with self._changed:
            retrieved, self._buffer = self._buffer, Buffer(self._maxlen)
            return retrieved

    def broadcast_model(self, actor: ActorModule) -> None:
        """Sends a copy of the policy; the agent goes on changing its own."""
        policy = copy.deepcopy(actor)
        with self._changed:
            self._policy = policy
            self._sent += 1
            self._changed.notify_all()


class WorkerSource:
    """A worker in the trainer's own thread: it steps its environment when the loop asks for samples.

    Test episodes of a `RolloutWorker` run in its environment, between its training episodes; those of a
    `VectorWorker` in an environment of their own, at any time.

    Args:
        worker: A standalone worker; it gets a line to this source.
        steps_per_retrieval: Steps of the environment for each `retrieve_buffer()`; of several environments
            together, in whole steps of all.
        test_interval_steps: Steps, likewise, from one test to the next; 0 for no such tests.
        test_interval_episodes: Training episodes from one test to the next; 0 for no such tests.
        test_episodes: Episodes a test.

    Attributes:
        worker: As given.
    """

    def __init__(
        self,
        worker: RolloutWorker | VectorWorker,
        steps_per_retrieval: int = 100,
        test_interval_steps: int = 0,
        test_interval_episodes: int = 0,
        test_episodes: int = 1,
    ) -> None:
        if steps_per_retrieval < 1:
            raise ValueError(f"steps_per_retrieval must be at least 1, got {steps_per_retrieval}")
        if worker.sink is not None:
            raise ValueError(
                f"a WorkerSource needs a worker without a sink, got one that sends to {worker.sink.peer}; "
                "make it with standalone=True"
            )
        self.worker = worker
        self._line = worker.sink = InProcessLine()
        self._steps_per_retrieval = steps_per_retrieval
        self._step_clock = Interval(test_interval_steps)
        self._episode_clock = Interval(test_interval_episodes)
        self._test_episodes = test_episodes

    def attach(self, memory: Any) -> None:
        """See `InProcessLine.attach`."""
        self._line.attach(memory)

    def retrieve_buffer(self) -> Buffer:
        """Lets the worker collect, tests where they are due, and returns what it sent."""
        for _ in range(0, self._steps_per_retrieval, self.worker.num_envs):
            if self.worker.can_test:
                self._test_if_due()
            before = len(self.worker.buffer.episodes)
            self.worker.collect_steps(1)
            self._step_clock.tick(self.worker.num_envs)
            self._episode_clock.tick(len(self.worker.buffer.episodes) - before)
        self.worker.send_and_clear_buffer()
        return self._line.retrieve_buffer()

    def broadcast_model(self, actor: ActorModule) -> None:
        """Gives the worker a copy of the policy, which it uses from its next step on."""
        self._line.broadcast_model(actor)
        self.worker.update_actor_weights(verbose=False)

    def _test_if_due(self) -> None:
        steps_due, episodes_due = self._step_clock.is_due(), self._episode_clock.is_due()
        if steps_due or episodes_due:
            self.worker.run_episodes(nb_episodes=self._test_episodes)

    def close(self) -> None:
        """Closes the worker."""
        self.worker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
