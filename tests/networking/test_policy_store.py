"""The store of policies on a disk that is slow, or full."""

import asyncio
import gc
import threading
from contextlib import suppress

import pytest

from networking.numbered import numbered, ram_outbox, until
from tmrl.datasets import files
from tmrl.errors import ProtocolError
from tmrl.networking import background
from tmrl.networking.messages import Policy, to_frame
from tmrl.networking.policy_store import POLICY, PolicyStore, policy_message
from tmrl.networking.server import Server
from tmrl.networking.trainer_line import TrainerLine
from tmrl.networking.worker_line import WorkerLine

WAIT_S = 20


class SlowDisk:
    """A disk of which each sync of a policy waits until it is let go."""

    def __init__(self) -> None:
        self.n_waiting = self.most_waiting = 0
        self._go = threading.Semaphore(0)

    def sync(self, stream):
        if POLICY not in stream.name:
            return
        self.n_waiting += 1
        self.most_waiting = max(self.n_waiting, self.most_waiting)
        assert self._go.acquire(timeout=WAIT_S)
        self.n_waiting -= 1

    def let_go(self, n=1):
        self._go.release(n)


@pytest.fixture
def disk(monkeypatch):
    disk = SlowDisk()
    monkeypatch.setattr(files, "sync", disk.sync)
    yield disk
    disk.let_go(100)


def kept(store, *policies):
    """Starts to keep policies, one after the other, each in a task of its own."""
    return [background.start(store.keep(policy)) for policy in policies]


def on_disk(folder):
    store = PolicyStore(folder)
    return store.version, store.digest


def test_samples_are_acknowledged_while_a_policy_is_written(disk, tmp_path):
    with (
        Server(port=None, spool=tmp_path) as server,
        TrainerLine(server.loopback) as trainer,
        WorkerLine(server.loopback, ram_outbox("a"), batch_s=0.01, close_s=0.1) as line,
    ):
        store = server._hub._policies
        (keeping,) = kept(store, policy_message(1, b"weights"))
        until(lambda: disk.n_waiting)
        line.send(numbered("a", 0, 10))
        assert line.flush(WAIT_S)
        until(lambda: len(trainer.retrieve_buffer()))
        assert not keeping.done(), "a policy was acknowledged that is not safe"
        assert line.receive(0.0, None).n_policies == 0
        disk.let_go()
        assert keeping.result(WAIT_S) == 1
        assert line.receive(WAIT_S, None).version == 1


def test_policies_are_written_in_the_order_in_which_they_came(disk, tmp_path):
    store = PolicyStore(tmp_path)
    first, second = kept(store, policy_message(1, b"one"), policy_message(3, b"two"))
    disk.let_go(2)
    assert [first.result(WAIT_S), second.result(WAIT_S)] == [1, 3]
    assert disk.most_waiting == 1
    assert on_disk(tmp_path) == store.mark == (3, policy_message(1, b"two").digest)


def test_a_policy_whose_trainer_hangs_up_meanwhile_is_written_and_told_of(disk, tmp_path):
    store = PolicyStore(tmp_path)
    (keeping,) = kept(store, policy_message(1, b"one"))
    newer = background.start(store.newer((0, 0)))
    until(lambda: disk.n_waiting)
    assert keeping.cancel()
    (second,) = kept(store, policy_message(1, b"two"))
    disk.let_go(2)
    assert second.result(WAIT_S) == 2
    assert newer.result(WAIT_S)[0] in {1, 2}
    assert on_disk(tmp_path) == store.mark == (2, policy_message(1, b"two").digest)


def test_who_closes_waits_for_what_is_being_written(disk, tmp_path):
    store = PolicyStore(tmp_path)
    kept(store, policy_message(1, b"one"))
    until(lambda: disk.n_waiting)
    closing = background.start(store.close())
    with suppress(TimeoutError):
        closing.result(0.1)
    assert not closing.done()
    disk.let_go()
    closing.result(WAIT_S)
    assert on_disk(tmp_path)[0] == 1


def test_a_policy_that_the_disk_does_not_take_is_not_told_of(monkeypatch, tmp_path):
    def full(stream):
        raise OSError(28, "No space left on device")

    store = PolicyStore(tmp_path)
    background.run(store.keep(policy_message(1, b"one")), WAIT_S)
    frame = store.frame
    monkeypatch.setattr(files, "sync", full)
    with pytest.raises(OSError, match="No space left"):
        background.run(store.keep(policy_message(1, b"two")), WAIT_S)
    assert (store.version, store.frame) == (1, frame)
    assert [file.name for file in tmp_path.iterdir()] == ["policy.frame"]
    assert on_disk(tmp_path) == store.mark
    monkeypatch.undo()
    assert background.run(store.keep(policy_message(2, b"two")), WAIT_S) == 2


def test_a_policy_is_checked_before_it_is_kept(tmp_path):
    store = PolicyStore(tmp_path)
    with pytest.raises(ProtocolError, match="must have the digest that it says, got another: it is damaged"):
        background.run(store.keep(Policy(1, 5, b"weights")), WAIT_S)
    assert store.mark == (0, 0)


def test_a_policy_that_the_server_may_have_already_is_counted_once(tmp_path):
    async def twice():
        store = PolicyStore(tmp_path)
        policy = policy_message(1, b"weights")
        return await asyncio.gather(store.keep(policy), store.keep(policy)), store.frame

    versions, frame = background.run(twice(), WAIT_S)
    assert versions == [1, 1]
    assert frame == to_frame(Policy(1, policy_message(1, b"weights").digest), [b"weights"])


def test_numbers_go_on_whoever_begins_anew():
    store = PolicyStore()
    versions = [
        background.run(store.keep(policy_message(number, body)), WAIT_S)
        for number, body in [(44, b"one"), (46, b"two"), (1, b"three"), (2, b"three"), (47, b"three")]
    ]
    assert versions == [44, 46, 47, 48, 49]


def test_a_damaged_policy_whose_trainer_hangs_up_meanwhile_troubles_nobody(disk, tmp_path):
    unheard = []
    store = PolicyStore(tmp_path)

    async def hung_up_on():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
        first = asyncio.ensure_future(store.keep(policy_message(1, b"one")))
        await asyncio.to_thread(until, lambda: disk.n_waiting)
        damaged = asyncio.ensure_future(store.keep(Policy(1, 5, b"damaged")))
        await asyncio.sleep(0)
        damaged.cancel()
        disk.let_go()
        await first
        await store.keep(policy_message(1, b"one"))  # waits its turn
        gc.collect()
        asyncio.get_running_loop().set_exception_handler(None)

    background.run(hung_up_on())
    assert not unheard
    assert store.version == 1
