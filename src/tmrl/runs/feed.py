"""Feed: where the samples of a run come from.

here      a worker in this process, which the training loop steps
--workers worker processes on this machine, and a server in this one, over loopback
--serve   a server as a child, to which workers come from anywhere
--server  a server that runs already
"""

import math
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from tmrl.actor import ActorModule
from tmrl.buffer import Buffer
from tmrl.networking import Server
from tmrl.networking.connecting import dialer_of
from tmrl.networking.server import listener_of
from tmrl.networking.trainer_line import TrainerLine
from tmrl.networking.transport import Dialer
from tmrl.runs.crew import Crew
from tmrl.runs.environments import make_env, make_worker
from tmrl.runs.line_settings import Address
from tmrl.runs.settings import TrainSettings
from tmrl.training import SampleSource, WorkerSource
from tmrl.vector_env import single_spaces

STEPS_PER_EXCHANGE = 50
"""Steps between two exchanges of samples and policies between workers and the loop, or a few more."""
STEPS_PER_TEST = 1000
EPISODES_PER_TEST = 5
STEPS_PER_ATARI_TEST = 25_000
"""Steps between two tests where an episode is a thousand steps and more."""
EPISODES_BETWEEN_TESTS = 5
"""Of the first of several workers, before each of its test episodes."""


class OpenSource(SampleSource, Protocol):
    """A source of samples that is to be closed."""

    def __enter__(self) -> Any: ...
    def __exit__(self, *_: object) -> None: ...


class Feed(Protocol):
    """Where samples come from, ready to begin; nothing runs and nothing is on disk yet."""

    @property
    def spaces(self) -> tuple[Any, Any]:
        """Of single observations, and of actions."""
        ...

    @property
    def steps_per_exchange(self) -> int:
        """Steps between two exchanges of samples and policies."""
        ...

    def open(self, folder: Path) -> OpenSource:
        """Begins.

        Args:
            folder: Of the run.
        """
        ...


def make_feed(settings: TrainSettings, seed: int) -> Feed:
    """The feed that the settings ask for.

    Args:
        settings: Of the run.
        seed: Of the first environment; the others have the numbers after it.

    Raises:
        ValueError: The environment, or a space of it, does not suit.
    """
    if settings.is_fed_from_afar:
        return _FromAfar(settings, seed)
    return _Here(settings, seed)


def steps_per_exchange(settings: TrainSettings) -> int:
    """Steps between two exchanges of samples and policies: whole steps of all environments."""
    n_envs = max(1, settings.workers) * settings.num_envs
    return math.ceil(STEPS_PER_EXCHANGE / n_envs) * n_envs


class _Here:
    """A worker in this process."""

    def __init__(self, settings: TrainSettings, seed: int) -> None:
        self._settings = settings
        self.worker = make_worker(
            settings.env,
            settings.num_envs,
            settings.agent,
            crc_debug=settings.crc_debug,
            worker_id="local",
            seed=seed,
            frame_stack=settings.stack,
        )
        self.spaces = single_spaces(self.worker.env)
        self.steps_per_exchange = steps_per_exchange(settings)

    def open(self, folder: Path) -> OpenSource:  # noqa: ARG002 - it writes nothing
        return WorkerSource(
            self.worker,
            self.steps_per_exchange,
            test_interval_steps=STEPS_PER_ATARI_TEST if self._settings.is_atari else STEPS_PER_TEST,
            test_episodes=EPISODES_PER_TEST,
        )


class _FromAfar:
    """Workers in processes of their own."""

    def __init__(self, settings: TrainSettings, seed: int) -> None:
        self._settings = settings
        self._seed = seed
        self.steps_per_exchange = steps_per_exchange(settings)
        self._dialer = None if settings.workers else dialer_to(settings)
        env = make_env(settings.env)
        self.spaces = env.observation_space, env.action_space
        env.close()

    def open(self, folder: Path) -> OpenSource:
        settings = self._settings
        with ExitStack() as opened:
            crew = None
            if self._dialer is None:
                server = opened.enter_context(Server(port=0))
                line = opened.enter_context(TrainerLine(server.loopback))
                crew = opened.enter_context(
                    Crew(worker_commands(settings, f"127.0.0.1:{server.port}", self._seed))
                )
            else:
                if settings.serve:
                    crew = opened.enter_context(Crew([server_command(settings, folder / "spool")]))
                line = opened.enter_context(TrainerLine(self._dialer))
            return CrewSource(line, crew, opened.pop_all())


def dialer_to(settings: TrainSettings) -> Dialer:
    """What dials the server of a run, its own or another.

    Raises:
        ValueError: The address is none, or cannot do without credentials.
        CredentialError: The credentials cannot be used.
    """
    if not settings.serve:
        address = Address.read(settings.server)
        return dialer_of(address.host, address.port, settings.credential)
    listener_of(settings.host, settings.port, settings.credentials)  # fails here, and not in a process
    trainer = None if settings.credentials is None else settings.credentials / "trainer.json"
    is_everywhere = settings.host in {"0.0.0.0", "::"}  # noqa: S104 - compared, not bound
    return dialer_of("127.0.0.1" if is_everywhere else settings.host, settings.port, trainer)


def worker_commands(settings: TrainSettings, address: str, seed: int) -> list[list[str]]:
    """The commands of the worker processes of a run; the first of them tests the policy, too."""
    n, n_envs = settings.workers, settings.num_envs
    given: dict[str, Any] = {
        "--env": settings.env,
        "--num-envs": n_envs,
        "--agent": settings.agent,
        "--frame-stack": settings.stack,
        "--server": address,
        "--outbox": "ram",
        "--initial-steps": max(1, math.ceil(settings.warm_up / n)),
        # A little more than the loop needs for its next policy, so that it seldom waits for the slowest.
        "--steps-per-policy": steps_per_exchange(settings) / n + 2 * n_envs,
        "--close-s": 0.0,
    }
    shared = [str(word) for pair in given.items() for word in pair]
    shared += ["--crc-debug"] if settings.crc_debug else []
    tests = ["--test-interval", str(EPISODES_BETWEEN_TESTS)]
    # One seed more than environments: that of the environment for tests.
    seeds = [seed + i * (n_envs + 1) for i in range(n)]
    return [
        ["worker", *shared, "--name", f"local-{i}", "--seed", str(seeds[i]), *(tests if i == 0 else [])]
        for i in range(n)
    ]


def server_command(settings: TrainSettings, spool: Path) -> list[str]:
    """The command of a run's own server."""
    command = ["server", "--host", settings.host, "--port", str(settings.port), "--spool", str(spool)]
    return command if settings.credentials is None else [*command, "--credentials", str(settings.credentials)]


@dataclass(slots=True)
class CrewSource:
    """A line, and the processes at its other end, if they are the run's own."""

    source: TrainerLine
    """The line; it is found beneath this source."""
    crew: Crew | None
    """The processes."""
    opened: ExitStack
    """What to close."""

    def retrieve_buffer(self) -> Buffer:
        """Everything that arrived since the last call.

        Raises:
            CrewError: A process failed time and again; the message has its last words.
        """
        if self.crew is not None:
            self.crew.check()
        return self.source.retrieve_buffer()

    def broadcast_model(self, actor: ActorModule) -> None:
        """Sends the policy as it is now."""
        self.source.broadcast_model(actor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.opened.close()
