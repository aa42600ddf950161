"""What `tmrl server` and `tmrl worker` do, each in a process of its own."""

import logging
import math
import time
from contextlib import ExitStack, suppress
from threading import Event

from rich.console import Console

from tmrl.actor import ActorModule
from tmrl.buffer import Buffer
from tmrl.errors import PolicyError
from tmrl.fed_worker import FedWorker
from tmrl.interval import Interval
from tmrl.memory.size import budget_bytes
from tmrl.networking import Server
from tmrl.networking.connecting import RAM, connect_worker, credential_of, outbox_place
from tmrl.networking.worker_line import WorkerLine
from tmrl.runs.environments import make_worker
from tmrl.runs.lifetime import follow_stdin, interruptible, terminable
from tmrl.runs.line_settings import Address, ServerSettings, WorkerSettings
from tmrl.sink import Received, Sink

logger = logging.getLogger(__name__)


def serve(settings: ServerSettings, console: Console) -> None:
    """Serves until Ctrl-C, or until it is told to end.

    Raises:
        ValueError: A setting does not suit.
        OSError: The port is taken, or the spool cannot be written.
    """
    settings.check()
    with (
        interruptible() as is_over,
        Server(
            settings.port,
            host=settings.host,
            credentials=settings.credentials,
            spool=None if settings.spool == RAM else settings.spool,
            spool_bytes=budget_bytes(settings.spool_size),
        ) as server,
    ):
        where = "in memory" if settings.spool == RAM else f"in {settings.spool}"
        console.print(
            f"listening at {settings.host}:{server.port}, samples are kept {where}; Ctrl-C ends it",
            soft_wrap=True,
            highlight=False,
        )
        console.file.flush()  # for those who read it from a file
        if settings.until_stdin_closes:
            follow_stdin()
        is_over.wait()


def connected_worker(settings: WorkerSettings) -> tuple[FedWorker, WorkerLine]:
    """The worker, and its line, which connects in the background; both are the caller's to close.

    Raises:
        ValueError: A setting does not suit.
        CredentialError: The credential cannot be used.
        StorageError: The outbox cannot be written, or another worker of this name uses it.
    """
    settings.check()
    address = Address.read(settings.server)
    credential = None if settings.credential is None else credential_of(settings.credential)
    name = settings.name or (None if credential is None else credential.name)
    with ExitStack() as opened:
        worker = make_worker(
            settings.env,
            settings.num_envs,
            settings.agent,
            crc_debug=settings.crc_debug,
            worker_id=name,
            seed=settings.seed,
            wait_limit_s=settings.wait_limit_s,
            frame_stack=settings.stack,
        )
        opened.enter_context(worker)
        line = connect_worker(
            worker.worker_id,
            address.host,
            address.port,
            credential,
            outbox_place(name, settings.outbox),
            budget_bytes(settings.outbox_size),
            settings.when_full,
            settings.compress,
            settings.wait_limit_s,
            settings.close_s,
        )
        worker.sink = KeepsPolicy(line)
        opened.pop_all()
        return worker, line


class KeepsPolicy:
    """A line on which a policy that cannot be read is said once, and the worker goes on with the one it has.

    A user's own loop is told by a `PolicyError` of `update_actor_weights`; a robot that nobody watches is
    better off with an older policy than without.

    Args:
        sink: The line.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._is_told = False

    @property
    def peer(self) -> str:
        """Who is at the other end."""
        return self._sink.peer

    def send(self, buffer: Buffer) -> None:
        """See `Sink`."""
        self._sink.send(buffer)

    def receive(self, timeout_s: float, actor: ActorModule | None) -> Received:
        """See `Sink`; waits on if what comes cannot be read."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                received = self._sink.receive(max(0.0, deadline - time.monotonic()), actor)
            except PolicyError as error:
                if not self._is_told:
                    logger.error("the worker goes on with the policy it has: %s", error)  # noqa: TRY400
                self._is_told = True
                continue
            if received.n_policies:
                self._is_told = False
            return received


def work(worker: FedWorker, line: WorkerLine, settings: WorkerSettings) -> None:
    """Collects until all steps are done, or until Ctrl-C; what was collected is sent before it returns."""
    if settings.until_stdin_closes:
        follow_stdin()
    with line, worker:
        if settings.steps_per_policy < math.inf:
            _work_in_step(worker, settings)
        else:
            with interruptible() as is_over:
                _work_freely(worker, settings, is_over)


def _work_in_step(worker: FedWorker, settings: WorkerSettings) -> None:
    """As fast as policies come."""
    with suppress(KeyboardInterrupt), terminable():
        worker.run_synchronous(
            settings.test_interval,
            settings.steps,
            settings.initial_steps,
            settings.steps_per_policy,
            end_episodes=False,
        )


def _work_freely(worker: FedWorker, settings: WorkerSettings, is_over: Event) -> None:
    """As fast as the environments go."""
    tests = Interval(0 if settings.crc_debug else settings.test_interval, begins_due=True)
    collected, sent_at = 0, time.monotonic()
    while collected < settings.steps and not is_over.is_set():
        if worker.can_test and tests.is_due():
            worker.run_episode()
        before = len(worker.buffer.episodes)
        collected += worker.collect_steps(1)
        tests.tick(len(worker.buffer.episodes) - before)
        if time.monotonic() - sent_at >= settings.send_interval_s:
            worker.send_and_clear_buffer()
            worker.update_actor_weights(verbose=False)
            sent_at = time.monotonic()
