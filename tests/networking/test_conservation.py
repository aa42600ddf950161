"""Nothing is lost and nothing is made up, whatever is killed, cut, paused, or full.

Two workers, a server and a trainer are processes, over gRPC and a proxy that cuts connections at random
bytes. One of them after the other is killed with -9 and begun anew. In the end every sample whose `send` had
returned is in the trainer's memory exactly once, in its place in its stream, or was declared as dropped.
"""

import itertools
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from networking.nursery import Child, Nursery
from networking.tcp_proxy import TcpProxy
from tmrl.datasets import open_dataset
from tmrl.networking.grpc_transport import GrpcDialer
from tmrl.networking.status import report_of

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="fork and kill -9 are things of POSIX")

PRELOAD = ("tmrl.cli", "tmrl.runs.serving", "tmrl.networking.connecting", "tmrl.memory.replay")
ROLES = ("worker", "worker", "server", "trainer")
CUT_WITHIN = 60_000
QUIET_S = 90.0


@dataclass
class Worker:
    """A worker in all of its lives, and what it is known to have sent."""

    name: str
    outbox: str
    child: Child | None = None
    life: int = -1
    next: int = 0
    """Parcels put, as far as it was told."""
    sent: list[tuple[int, int]] = field(default_factory=list)
    """(life, step) of each sample that was put."""
    orders: list[tuple[int, int, int]] = field(default_factory=list)


class Site:
    """The processes of one test, and what they told."""

    def __init__(self, folder: Path, nursery: Nursery, rng: random.Random, **options: Any) -> None:
        self.folder = folder
        self.rng = rng
        self.nursery = nursery
        self.proxy = TcpProxy(rng, options.get("cut_within", CUT_WITHIN))
        self.when_full = options.get("when_full", "block")
        self.is_spool_on_disk = options.get("is_spool_on_disk", True)
        self.has_outbox_on_disk = options.get("has_outbox_on_disk", True)
        self.has_jumping_clocks = options.get("has_jumping_clocks", False)
        self.disk_is_full = options.get("disk_is_full", False)
        self.pause_s = options.get("pause_s", 0.02)
        self.kills: Counter[str] = Counter()
        self._lives = itertools.count()
        self.workers = [self._worker(name) for name in ("ann", "bob")]
        self.server = self._serve()
        self.trainer = self._train()

    # Processes.

    def _clock(self) -> int | None:
        return self.rng.randrange(1 << 30) if self.has_jumping_clocks else None

    def _worker(self, name: str) -> Worker:
        worker = Worker(name, str(self.folder / "outbox") if self.has_outbox_on_disk else "ram")
        self._begin_life(worker)
        return worker

    def _begin_life(self, worker: Worker) -> None:
        worker.life = next(self._lives)
        worker.child = self.nursery.start(
            "work",
            name=worker.name,
            life=worker.life,
            port=self.proxy.port,
            outbox=worker.outbox,
            when_full=self.when_full,
            stop=str(self.folder / "stop-workers"),
            pause_s=self.pause_s,
            clock=self._clock(),
            disk_is_full=self.disk_is_full,
        )

    def _serve(self) -> Child:
        spool = str(self.folder / "spool") if self.is_spool_on_disk else "ram"
        until = str(self.folder / "stop-workers") if self.disk_is_full else None
        return self.nursery.start("serve", spool=spool, clock=self._clock(), disk_is_full_until=until)

    def _train(self) -> Child:
        seed = self.rng.randrange(1 << 30)
        place, stop = str(self.folder / "checkpoint"), str(self.folder / "stop-trainer")
        return self.nursery.start("train", port=self.proxy.port, folder=place, seed=seed, stop=stop)

    def find_server(self) -> None:
        """Tells the proxy where the server is."""
        where = self.server.await_word("listening")
        self.proxy.target = int(where[1].rstrip(",").rsplit(":", 1)[1])

    # Kills.

    def kill(self, role: str) -> None:
        """Kills one process, somewhere within what it does, and begins it anew."""
        self.kills[role] += 1
        if role == "worker":
            worker = self.rng.choice(self.workers)
            assert worker.child is not None
            worker.child.await_word("opened")
            time.sleep(self.rng.uniform(0.0, 0.3))
            worker.child.kill()
            self._note_sent(worker)
            self._begin_life(worker)
        elif role == "server":
            time.sleep(self.rng.uniform(0.0, 0.3))
            self.server.kill()
            self.proxy.target = None
            time.sleep(self.rng.uniform(0.0, 0.2))
            self.server = self._serve()
            self.find_server()
        else:
            self.trainer.await_word("begun")
            time.sleep(self.rng.uniform(0.0, 0.5))
            self.trainer.kill()
            self.trainer = self._train()

    def disturb(self) -> None:
        """What a bad network does besides."""
        if self.rng.random() < 0.3:
            self.proxy.pause()
            time.sleep(self.rng.uniform(0.0, 0.1))
            self.proxy.go_on()

    def _note_sent(self, worker: Worker) -> None:
        """Takes down what a life has sent, and, where it could not say so any more, what its outbox says."""
        assert worker.child is not None
        for line in worker.child.lines():
            if line[0] == "opened":
                self._note_untold(worker, int(line[1]))
            elif line[0] == "sending":
                worker.orders = [(worker.life, int(line[1]), int(line[2]))]
            elif line[0] == "sent":
                self._note_put(worker)

    def _note_put(self, worker: Worker) -> None:
        ((life, first, n),) = worker.orders
        worker.sent += [(life, step) for step in range(first, first + n)]
        worker.orders = []
        worker.next += 1

    def _note_untold(self, worker: Worker, next_number: int) -> None:
        """A kill came between the put and the word of it, or before: the number of the next parcel tells."""
        if not self.has_outbox_on_disk:
            worker.next = next_number
            return
        assert worker.next <= next_number <= worker.next + 1, "the outbox has lost parcels, or made some up"
        if next_number > worker.next:
            self._note_put(worker)
        worker.orders = []

    # The end.

    def finish(self) -> None:
        """Lets everything arrive, and ends all processes."""
        self.proxy.cut_within = None
        self.proxy.go_on()
        (self.folder / "stop-workers").touch()
        for worker in self.workers:
            assert worker.child is not None
            worker.child.await_word("done", QUIET_S)
            self._note_sent(worker)
            worker.child.await_end()
        report = report_of(GrpcDialer("127.0.0.1", self.proxy.target or 0))
        self.reports = sorted(report.to_json()["workers"], key=lambda worker: worker["name"])
        self._await_all()
        (self.folder / "stop-trainer").touch()
        self.trainer.await_word("done")
        self.trainer.await_end()
        self.server.kill()

    def _await_all(self) -> None:
        n_sent = sum(len(worker.sent) for worker in self.workers)
        deadline = time.monotonic() + QUIET_S
        while True:
            n_saved, _, _, n_skipped, _ = map(int, self.trainer.told("saved") or [0] * 5)
            if n_saved + n_skipped >= n_sent:
                time.sleep(0.3)  # for what must not come
                return
            told = f"{n_saved} saved and {n_skipped} dropped of {n_sent}: {self.trainer.tail()}"
            assert time.monotonic() < deadline, told
            assert not self.trainer.has_ended(), told
            time.sleep(0.05)

    def held(self) -> list[tuple[int, int]]:
        """(life, step) of each row in the trainer's last checkpoint, in the order of each stream."""
        episodes = open_dataset(self.folder / "checkpoint").episodes()
        return [(int(life), int(step)) for episode in episodes for life, step in episode.rows["obs"]]

    def check(self) -> None:
        """Produced is held and dropped; nothing is there twice, and nothing was made up."""
        held, sent = self.held(), [each for worker in self.workers for each in worker.sent]
        told = self.trainer.told("saved")
        assert told is not None
        _, n_duplicates, _, n_skipped, n_refused = map(int, told)
        assert len(set(held)) == len(held), "a sample is there twice"
        assert set(held) <= set(sent), "a sample was made up"
        missing = len(sent) - len(held)
        assert missing == n_skipped, f"{missing} are missing, {n_skipped} were declared as dropped"
        # The memory counts as duplicates also what came after a later step of its stream.
        assert (n_duplicates, n_refused) == (0, 0)
        assert [worker["lost"] for worker in self.reports] == [0, 0]
        noted = [int(worker.child.told("done")[2]) for worker in self.workers]
        if self.is_spool_on_disk:  # else each server counts anew
            assert [worker["skipped"] for worker in self.reports] == noted
            assert sum(noted) == missing
        self.n_dropped = missing

    def close(self) -> None:
        self.proxy.close()


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with Nursery("networking.roles", tmp_path_factory.mktemp("told"), PRELOAD) as nursery:
        yield nursery


def run(
    nursery: Nursery, folder: Path, kills: int, seed: int, roles: tuple[str, ...], **options: Any
) -> Site:
    """Kills one process after the other, lets everything come to rest, and looks at what is left."""
    site = Site(folder, nursery, random.Random(seed), **options)
    try:
        site.find_server()
        order = [*roles, *site.rng.choices(roles, k=max(0, kills - len(roles)))][:kills]
        site.rng.shuffle(order)
        for role in order:
            site.disturb()
            site.kill(role)
        time.sleep(0.5)
        site.finish()
        site.check()
        return site
    finally:
        for child in [site.server, site.trainer, *(worker.child for worker in site.workers)]:
            if child is not None:
                child.kill()
        site.close()


def test_ten_kills_and_many_cuts_lose_nothing_and_double_nothing(nursery: Nursery, tmp_path: Path) -> None:
    """B42: no entry is doubled by what the network does, and every one that was acknowledged is there."""
    site = run(nursery, tmp_path, 10, seed=1, roles=ROLES)
    assert site.proxy.cuts > 0
    assert len(site.held()) > 500


VARIANTS: dict[str, dict[str, Any]] = {
    # A server that keeps nothing: workers keep their samples until the trainer has saved them.
    "spool in RAM": {"is_spool_on_disk": False},
    # Workers that are not killed may keep their samples in RAM too.
    "all in RAM": {"is_spool_on_disk": False, "has_outbox_on_disk": False, "roles": ROLES[2:]},
    # A real-time worker drops its oldest episodes when its outbox is full, and each drop is counted.
    "drop": {"when_full": "drop", "pause_s": 0.004},
    "clocks": {"has_jumping_clocks": True},
    "full disks": {"disk_is_full": True},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_few_kills_lose_nothing_either(nursery: Nursery, tmp_path: Path, variant: str) -> None:
    options = VARIANTS[variant]
    site = run(nursery, tmp_path, 3, seed=2, **{"roles": ROLES[1:], **options})
    assert (site.n_dropped > 0) == (variant == "drop")
    if variant == "full disks":
        assert any(worker.child.told("refused") for worker in site.workers)


@pytest.mark.stress
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("variant", ["plain", *VARIANTS])
def test_two_hundred_kills_lose_nothing(nursery: Nursery, tmp_path: Path, variant: str) -> None:
    options = {"roles": ROLES, **VARIANTS.get(variant, {})}
    for seed in range(10):
        folder = tmp_path / str(seed)
        folder.mkdir()
        site = run(nursery, folder, 20, seed=100 + seed, **options)
        assert sum(site.kills.values()) == 20
