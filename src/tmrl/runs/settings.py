"""The flags of `tmrl train`, which `config.json` remembers, and those of `tmrl record`."""

import math
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from tmrl.networking.addresses import DEFAULT_PORT

RANDOM = "random"
"""Stands for a policy that acts at random."""
AUTO = "auto"
"""Stands for the agent that suits the environment's actions."""
ATARI = "ALE/"
"""What the ids of the games of the Arcade Learning Environment begin with."""
FIXED = (
    *("env", "name", "agent", "seed", "warm_up", "crc_debug"),
    *("prioritized", "n_step", "frame_stack", "demo_fraction"),
)
"""Settings that a run keeps when it goes on: they say what its rows, its networks and its counts mean."""
PENDULUM_TARGET = -250.0
"""Mean return that tells a policy that swings up and balances from one that does not."""


def is_atari(env: str) -> bool:
    """Whether an environment is a game of the Arcade Learning Environment."""
    return env.startswith(ATARI)


def stack_of(env: str, frame_stack: int | None) -> int:
    """Observations that a policy sees at once: what `--frame-stack` says, or what suits the environment."""
    if frame_stack is not None:
        return frame_stack
    return 4 if is_atari(env) else 1


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """Train an agent, from a worker in this process or from workers elsewhere."""

    env: str = "Pendulum-v1"
    """Id of a Gymnasium environment with bounded continuous actions, or with numbered ones; after the module
    that registers it, if that must be imported first, as in my_robot:MyRobot-v0."""
    name: str | None = None
    """Name of the run's folder in runs/; by default the environment's id, date and time."""
    agent: Literal["auto", "sac", "redq", "dqn"] = AUTO
    """What learns; auto is sac for continuous actions, and dqn for numbered ones."""
    steps: int = 8_000
    """Steps of the environment, resets included."""
    seed: int = 0
    """Seed of the networks, the noise, the environment and the memory's draws."""
    batch_size: int = 256
    """Transitions in a batch."""
    memory_size: float | str = 1e6
    """Most transitions that the memory holds, demonstrations included; or all the bytes to use, as in 4GB."""
    learning_rate: float | None = None
    """Learning rate of all that the agent learns; by default 1e-3, and 1e-4 for the games of ALE."""
    updates_per_step: float | None = None
    """Updates for each step after --warm-up; by default 1, 20 for redq, and 0.25 for the games of ALE."""
    warm_up: int = 500
    """Steps before the first update."""
    max_env_steps_ahead: float | None = None
    """Steps by which the environments may be ahead of the updates, beside --warm-up; more than that wait with
    the server, and then with their workers. By default none wait."""
    num_envs: int = 1
    """Environments to step side by side, in this process or in each of the --workers; --steps counts those of
    all together."""
    workers: int = 0
    """Worker processes to start on this machine; 0 steps the environments in this process."""
    serve: bool = False
    """Start a server, to which workers come with `tmrl worker`, from this machine or from others."""
    host: str = "127.0.0.1"
    """Address at which --serve listens; others than this machine's own need --credentials."""
    port: int = DEFAULT_PORT
    """Port at which --serve listens."""
    credentials: Path | None = None
    """Folder that `tmrl credentials init` made, for --serve."""
    server: str | None = None
    """A server that runs already, to train from what its workers send; its name or address, and after a
    colon its port, as in trainer.example.org:55555."""
    credential: Path | None = None
    """File trainer.json that `tmrl credentials init` made, for a --server that is another machine."""
    prioritized: bool = False
    """Draw transitions in proportion to the agent's last error about them."""
    n_step: int = 1
    """Steps whose rewards are summed up in a transition."""
    frame_stack: int | None = None
    """Observations that the agent sees at once; by default 1, and 4 for the games of ALE."""
    crc_debug: bool = False
    """Compare every transition drawn with the checksums that the worker took."""
    dataset: str | None = None
    """Recorded data that the memory begins with; a folder, an .npz file, or the id of a Minari dataset."""
    demos: str | None = None
    """Demonstrations that the memory begins with too, labelled demo; likewise."""
    demo_fraction: float | None = None
    """Part of each batch that is demonstrations, which then stay in the memory to the end; sac and redq
    normalise their critics' layers (RLPD)."""
    device: str | None = None
    """Where to train, such as cpu or cuda; by default cuda if there is one."""
    threads: int = 1
    """Threads of torch on the CPU; more are faster on idle cores, and far slower on cores that others use."""
    test_episodes: int = 10
    """Episodes of the final test; 0 leaves it out, as where the environment is a robot elsewhere."""
    target_return: float | None = None
    """Mean return in that test below which the command fails; by default -250 for Pendulum-v1, else none."""
    checkpoint_interval_s: float = 60.0
    """Seconds from one checkpoint to the next; there is also one at the start, at the end and at Ctrl-C."""
    resume: Path | None = None
    """Folder of a run to go on with, such as runs/my-run; what is not given is as it was in that run."""

    def check(self) -> None:
        """Checks the numbers.

        Raises:
            ValueError: One is out of range; the message names its flag.
        """
        sizes = () if isinstance(self.memory_size, str) else ("memory_size",)
        stack = () if self.frame_stack is None else ("frame_stack",)
        for name in ("steps", "batch_size", *sizes, "threads", "n_step", "num_envs", *stack):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        for name in ("warm_up", "seed", "test_episodes", "checkpoint_interval_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 0, got {getattr(self, name)}")
        ahead = 1.0 if self.max_env_steps_ahead is None else self.max_env_steps_ahead
        for name, value in (
            ("learning-rate", self.rate),
            ("updates-per-step", self.ratio),
            ("max-env-steps-ahead", ahead),
        ):
            if not 0 < value < math.inf:
                raise ValueError(f"--{name} must be above 0 and finite, got {value}")
        if self.num_envs > self.steps:
            raise ValueError(
                f"--num-envs must be at most --steps, {self.steps}, got {self.num_envs}; each of them makes "
                "at least one step"
            )
        if self.target_return is not None and not self.test_episodes:
            raise ValueError(
                f"--target-return is that of the final test, got {self.target_return:g} and "
                "--test-episodes 0; leave one of them out"
            )
        self._check_demo_fraction()
        self._check_feed()

    def _check_feed(self) -> None:
        if self.workers < 0:
            raise ValueError(f"--workers must be at least 0, got {self.workers}")
        chosen = [
            flag
            for flag, is_given in (
                ("--workers", self.workers > 0),
                ("--serve", self.serve),
                ("--server", self.server is not None or self.credential is not None),
            )
            if is_given
        ]
        if len(chosen) > 1:
            raise ValueError(
                f"samples come from one place, got {' and '.join(chosen)}; give one of them, and start "
                "further workers with `tmrl worker`"
            )
        if chosen and not self.workers and self.num_envs > 1:
            raise ValueError(
                f"--num-envs is for environments that this run steps itself, got it with {chosen[0]}; "
                "give it to `tmrl worker`"
            )
        self._check_serve()

    def _check_serve(self) -> None:
        if not 0 < self.port < 1 << 16:
            raise ValueError(f"--port must be from 1 to 65535, got {self.port}")
        if not self.serve and (self.host != "127.0.0.1" or self.credentials is not None):
            raise ValueError(
                f"--host and --credentials are those of --serve, got {self.host} and {self.credentials} "
                "without it; give --serve, or leave them out"
            )

    @property
    def is_fed_from_afar(self) -> bool:
        """Whether samples come from other processes."""
        return self.workers > 0 or self.serve or self.server is not None or self.credential is not None

    def _check_demo_fraction(self) -> None:
        if self.demo_fraction is None:
            return
        if not 0 < self.demo_fraction < 1:
            raise ValueError(f"--demo-fraction must be between 0 and 1, got {self.demo_fraction}")
        if self.demos is None or self.dataset is not None:
            raise ValueError(
                "--demo-fraction mixes --demos with the samples of the run, and takes no --dataset, got "
                f"--demos {self.demos} and --dataset {self.dataset}; give the data as --demos"
            )

    def check_goes_on(self, earlier: "TrainSettings") -> None:
        """Checks that a run of the settings `earlier` can go on with these.

        Raises:
            ValueError: One has changed that cannot; the message names its flag.
        """
        for name in FIXED:
            old, new = getattr(earlier, name), getattr(self, name)
            if old != new:
                raise ValueError(
                    f"--{name.replace('_', '-')} of a run that goes on must stay {old!r}, got {new!r}; "
                    "leave it out, or begin a new run, without --resume"
                )

    @property
    def target(self) -> float | None:
        """The mean test return to reach, if any."""
        if self.target_return is None and self.env == "Pendulum-v1" and self.test_episodes:
            return PENDULUM_TARGET
        return self.target_return

    @property
    def is_atari(self) -> bool:
        """Whether the environment is a game of the Arcade Learning Environment."""
        return is_atari(self.env)

    @property
    def rate(self) -> float:
        """The learning rate."""
        default = 1e-4 if self.is_atari else 1e-3
        return default if self.learning_rate is None else self.learning_rate

    @property
    def ratio(self) -> float:
        """Updates for each step."""
        default = 0.25 if self.is_atari else 20.0 if self.agent == "redq" else 1.0
        return default if self.updates_per_step is None else self.updates_per_step

    @property
    def stack(self) -> int:
        """Observations that the agent sees at once."""
        return stack_of(self.env, self.frame_stack)

    @property
    def updates(self) -> int:
        """Training steps of the whole run, at least 1."""
        return max(1, round((self.steps - self.warm_up) * self.ratio))

    def as_config(self) -> dict[str, Any]:
        """What `config.json` holds: the settings and the versions of what ran."""
        packages = ("tmrl-memory", "torch", "numpy", "gymnasium")
        versions = {package: version(package) for package in packages}
        settings = {
            name: str(value) if isinstance(value, Path) else value
            for name, value in asdict(self).items()
            if name != "resume"
        }
        return settings | {"versions": versions | {"python": platform.python_version()}}

    @classmethod
    def from_config(cls, config: dict[str, Any], resume: Path) -> "TrainSettings":
        """The settings of a run that is to go on, from what `as_config` returned.

        Args:
            config: Settings that it lacks are at their defaults.
            resume: Folder of the run.

        Raises:
            ValueError: It holds something else.
        """
        values: dict[str, Any] = {name: value for name, value in config.items() if name != "versions"}
        values["resume"] = resume
        for name in ("credentials", "credential"):
            values[name] = None if values.get(name) is None else Path(values[name])
        try:
            settings = cls(**values)
            settings.check()
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"the config.json of {resume} must hold the settings of a run, but: {error}"
            ) from error
        return settings


@dataclass(frozen=True, slots=True)
class RecordSettings:
    """Record complete episodes of a policy as a dataset; Ctrl-C stops, and what is recorded stays."""

    out: Annotated[Path, tyro.conf.Positional]
    """Folder of the dataset; made if need be."""
    env: str | None = None
    """Id of a Gymnasium environment; by default that of the run."""
    policy: str = RANDOM
    """Folder of the run whose policy acts, without exploration; or random."""
    episodes: int = 10
    """Episodes to record."""
    max_steps: int | None = None
    """Steps after which an episode is truncated; by default the environment's own limit."""
    seed: int = 0
    """Seed of the environment and of random actions."""
    source: str = "demo"
    """Label of the data."""
    info_keys: tuple[str, ...] = ()
    """Entries of info to keep."""
    crc_debug: bool = False
    """Record the checksums of each transition too, as CRC debugging needs them."""
    history: str | None = None
    """What observations repeat, and is not recorded: rules as in Python, such as "Stacked(4)"."""
    append: bool = False
    """Go on with the dataset that is in the folder."""

    def check(self) -> None:
        """Checks the numbers and the folder.

        Raises:
            ValueError: One does not suit; the message names its flag.
        """
        if self.episodes < 1 or (self.max_steps is not None and self.max_steps < 1) or self.seed < 0:
            raise ValueError(
                "--episodes and --max-steps must be at least 1 and --seed at least 0, got "
                f"{self.episodes}, {self.max_steps} and {self.seed}"
            )
        if self.env is None and self.policy == RANDOM:
            raise ValueError("--env must be given for random actions; a run knows its environment")
