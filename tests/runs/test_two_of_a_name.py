"""Two programs under one name, as a user starts them: the first ends by itself and says why."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from networking.numbered import until
from networking.nursery import Child, Nursery
from tmrl.networking import Server

pytestmark = pytest.mark.skipif(os.name == "nt", reason="fork is a thing of POSIX")

PRELOAD = ("tmrl.cli", "tmrl.runs.serving", "tmrl.runs.session", "gymnasium.envs.classic_control")


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with Nursery("networking.roles", tmp_path_factory.mktemp("told"), PRELOAD) as nursery:
        yield nursery


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(port=0) as server:
        yield server


def start(nursery: Nursery, server: Server, folder: Path, command: str, *flags: str) -> Child:
    place = ("--server", f"127.0.0.1:{server.port}")
    return nursery.start("command", folder=str(folder), arguments=[command, *place, *flags])


def check_first_ends(first: Child, second: Child, message: str) -> None:
    try:
        first.await_end(60)
        assert first.code == 1
        assert message in first.tail()
        assert "Traceback" not in first.tail()
        assert not second.has_ended(), second.tail()
    finally:
        first.kill()
        second.kill()


def test_the_first_of_two_workers_of_one_name_ends_by_itself(
    nursery: Nursery, server: Server, tmp_path: Path
) -> None:
    flags = ("--name", "robot-1", "--outbox", "ram", "--send-interval-s", "0.1", "--close-s", "0")
    first = start(nursery, server, tmp_path, "worker", *flags)
    until(lambda: sum(worker["samples"] for worker in server.report()["workers"]) > 0, 60)
    second = start(nursery, server, tmp_path, "worker", *flags)
    message = (
        "another worker named 'robot-1' has taken over from 127.0.0.1; give each worker a name of its own"
    )
    check_first_ends(first, second, message)


def test_the_first_of_two_trainers_ends_by_itself(nursery: Nursery, server: Server, tmp_path: Path) -> None:
    flags = ("--warm-up", "200", "--batch-size", "16", "--steps", "100000", "--name")
    first = start(nursery, server, tmp_path, "trainer", *flags, "first")
    until(lambda: server.report()["trainer"]["is_connected"], 60)
    second = start(nursery, server, tmp_path, "trainer", *flags, "second")
    message = (
        "another trainer has taken over from 127.0.0.1; end one of them, or give each a server of its own"
    )
    check_first_ends(first, second, message)
