"""The flags of the commands whose parts run in processes of their own: `tmrl server`, `worker`, `status`."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tmrl.memory.size import budget_bytes
from tmrl.networking.addresses import DEFAULT_PORT, check_name
from tmrl.runs.settings import AUTO, stack_of


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is."""

    host: str | None
    """Name or address; None is what the credential says, or this machine."""
    port: int | None
    """Port; likewise."""

    @classmethod
    def read(cls, text: str | None) -> "Address":
        """The address in a text such as `10.0.0.7:55555`, `trainer.example.org` or `[::1]:55555`.

        Raises:
            ValueError: There is none.
        """
        if text is None:
            return cls(None, None)
        host, colon, port = text.rpartition(":")
        is_bare = not colon or text.endswith("]") or (":" in host and not host.endswith("]"))
        if is_bare:
            host, port = text, ""
        is_port = port.isdigit() and 0 < int(port) < 1 << 16
        if not host or "/" in host or not (is_port or is_bare):
            raise ValueError(
                f"--server must be HOST or HOST:PORT, got {text!r}; such as trainer.example.org:55555"
            )
        return cls(host.strip("[]"), int(port) if port else None)


def check_bytes(flag: str, text: str) -> None:
    """Checks a number of bytes with its unit.

    Raises:
        ValueError: It is none.
    """
    try:
        n_bytes = budget_bytes(text)
    except ValueError:
        n_bytes = 0
    if n_bytes < 1:
        raise ValueError(f'{flag} must be bytes with their unit, as in "10GB", got {text!r}')


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Take samples from workers, keep them for the trainer, and hand out its policies."""

    host: str = "127.0.0.1"
    """Address to listen at; others than this machine's own need --credentials."""
    port: int = DEFAULT_PORT
    """Port to listen at; 0 takes a free one."""
    credentials: Path | None = None
    """Folder that `tmrl credentials init` made."""
    spool: str = "spool"
    """Folder that keeps samples while the trainer is away; or ram, and workers keep theirs meanwhile."""
    spool_size: str = "10GB"
    """Most of the disk, or the memory, that samples may take; when it is full, workers wait."""
    until_stdin_closes: bool = False
    """End when standard input ends, as it does when the process that started this one is gone."""

    def check(self) -> None:
        """Checks the numbers.

        Raises:
            ValueError: One is out of range; the message names its flag.
        """
        if not 0 <= self.port < 1 << 16:
            raise ValueError(f"--port must be from 0 to 65535, got {self.port}")
        check_bytes("--spool-size", self.spool_size)


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Act in an environment, send every sample to a server, and take its policies."""

    env: str = "Pendulum-v1"
    """Id of a Gymnasium environment; after the module that registers it, if that must be imported first, as
    in my_robot:MyRobot-v0."""
    name: str | None = None
    """Name of this worker; by default that of its credential, else the machine's and random characters."""
    server: str | None = None
    """Name or address of the server, and after a colon its port, as in
    trainer.example.org:55555; by default what the credential says, or this machine."""
    credential: Path | None = None
    """File that `tmrl credentials worker` made; needed where the server is another machine."""
    outbox: str | None = None
    """Folder that keeps samples until the server has them safe; or ram, and they end with the process. By
    default outbox, if the worker has a name or a credential by which it is found again, else ram."""
    outbox_size: str = "1GB"
    """Most that samples may take there."""
    when_full: Literal["block", "drop"] = "block"
    """Whether a full outbox lets the worker wait, or drops the oldest episodes, as a robot needs it."""
    compress: tuple[str, ...] = ()
    """Fields to compress losslessly on their way, such as obs."""
    agent: Literal["auto", "sac", "redq", "dqn"] = AUTO
    """Whose policy acts; as for the trainer."""
    num_envs: int = 1
    """Environments to step side by side in this process; they share a line and an outbox."""
    frame_stack: int | None = None
    """Observations that the policy sees at once; as for the trainer."""
    crc_debug: bool = False
    """Take the checksums of every transition; as for the trainer."""
    steps: float = math.inf
    """Samples to collect, in all environments, resets included; by default until Ctrl-C."""
    initial_steps: int = 1
    """Samples to collect before the first wait for a policy, with --steps-per-policy."""
    steps_per_policy: float = math.inf
    """Samples for each policy, after which the worker waits for the next; by default it never waits."""
    send_interval_s: float = 1.0
    """Seconds of collecting from one hand-over of samples to the next."""
    test_interval: int = 0
    """Every how many episodes a test episode comes first; 0 for none."""
    seed: int | None = None
    """Seed of the first reset of the environment; the others of --num-envs have the numbers after it."""
    wait_limit_s: float = 600.0
    """Longest wait for a policy, or for room in the outbox."""
    close_s: float = 10.0
    """Longest wait, at the end, for samples to be safe with the server."""
    until_stdin_closes: bool = False
    """End when standard input ends, as it does when the process that started this one is gone."""

    def check(self) -> None:
        """Checks the numbers.

        Raises:
            ValueError: One is out of range; the message names its flag.
        """
        Address.read(self.server)
        check_bytes("--outbox-size", self.outbox_size)
        if self.name is not None:
            check_name(self.name)
        for name in ("num_envs", "steps", "initial_steps", "steps_per_policy"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        if self.test_interval < 0:
            raise ValueError(f"--test-interval must be at least 0, got {self.test_interval}")
        for name in ("send_interval_s", "wait_limit_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"--{name.replace('_', '-')} must be above 0, got {getattr(self, name)}")
        if not self.close_s >= 0:
            raise ValueError(f"--close-s must be at least 0, got {self.close_s}")

    @property
    def stack(self) -> int:
        """Observations that the policy sees at once."""
        return stack_of(self.env, self.frame_stack)


@dataclass(frozen=True, slots=True)
class StatusSettings:
    """Show who is connected to a server, how fast samples come, and what waits."""

    server: str | None = None
    """Name or address of the server, and after a colon its port, as in
    trainer.example.org:55555; by default what the credential says, or this machine."""
    credential: Path | None = None
    """Any file that `tmrl credentials` made; needed where the server is another machine."""
    json: bool = False
    """Print the whole report as JSON."""
    watch_s: float | None = None
    """Show it again and again, every so many seconds, until Ctrl-C."""

    def check(self) -> None:
        """Checks the numbers.

        Raises:
            ValueError: One is out of range; the message names its flag.
        """
        if self.watch_s is not None and not self.watch_s > 0:
            raise ValueError(f"--watch-s must be above 0, got {self.watch_s}")
