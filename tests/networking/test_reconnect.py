"""Lines come back: after a server that was away, a cut at a bad moment, and a peer that does not listen."""

import asyncio
import random
import time

import pytest

from dummies import CountingActor, CountingEnv, Policy
from networking.numbered import numbered, ram_outbox, steps_of, until
from networking.tcp_proxy import TcpProxy
from tmrl.chunk_buffer import ChunkBuffer
from tmrl.errors import LineLostError, RefusedError, StorageError
from tmrl.networking import RolloutWorker, background
from tmrl.networking.connecting import outbox_of
from tmrl.networking.disk_log import DiskLog
from tmrl.networking.grpc_transport import GrpcDialer
from tmrl.networking.messages import Hello, Skip, to_frame
from tmrl.networking.reconnect import keep_connected
from tmrl.networking.server import Server
from tmrl.networking.trainer_line import TrainerLine
from tmrl.networking.transport import FRAMES_IN_FLIGHT
from tmrl.networking.worker_line import WorkerLine


def run_in_loop(work, timeout_s=20.0):
    return background.run(work, timeout_s)


def test_workers_outlive_a_server_that_goes_away_and_comes_back_on_the_same_port():
    line = port = None
    steps = []
    for turn in range(5):
        with Server(port=port or 0) as server, TrainerLine(GrpcDialer("127.0.0.1", server.port)) as trainer:
            port = server.port
            if line is None:
                dialer = GrpcDialer("127.0.0.1", port)
                line = WorkerLine(dialer, ram_outbox("a"), batch_s=0.0, close_s=0.1)
            line.send(numbered("a", turn * 10, 10))
            trainer.broadcast_model(Policy())
            received = line.receive(20.0, Policy())
            assert received.actor is not None, "the line of policies did not come back"
            while not (arrived := steps_of(trainer.retrieve_buffer()).get("a")):
                time.sleep(0.01)
            steps += arrived
            trainer.retrieve_buffer()  # only now is what came before safe
            assert line.flush(20), "the line of samples did not come back"
    line.close()
    assert steps == list(range(50))


def test_a_channel_that_is_closed_under_a_call_is_a_lost_line():
    """Both lines of a peer share a channel: that which fails first closes it, and must not end the other."""

    async def listen(dialer):
        connection = await dialer.dial("policies")
        closing = asyncio.ensure_future(dialer.close())
        with pytest.raises(LineLostError, match=r"127\.0\.0\.1:\d+"):
            await connection.receive()
        with pytest.raises(LineLostError, match=r"127\.0\.0\.1:\d+"):
            await connection.send(b"nobody hears it")
        await closing

    with Server(port=0) as server:
        run_in_loop(listen(GrpcDialer("127.0.0.1", server.port)))


def test_two_dials_that_fail_together_are_two_lost_lines():
    rng = random.Random(0)

    async def fail(dialer, service):
        for _ in range(3):
            await asyncio.sleep(rng.uniform(0.0, 0.02))
            with pytest.raises(LineLostError, match="cannot be reached"):
                await dialer.dial(service)

    async def fail_together(dialer):
        async with asyncio.timeout(15):
            await asyncio.gather(fail(dialer, "samples"), fail(dialer, "policies"))
        await dialer.close()

    with TcpProxy(rng) as nobody:
        for _ in range(10):
            run_in_loop(fail_together(GrpcDialer("127.0.0.1", nobody.port)))


def test_a_peer_that_takes_the_call_and_says_nothing_is_a_lost_line(monkeypatch):
    monkeypatch.setattr("tmrl.networking.grpc_transport.DIAL_TIMEOUT_S", 0.3)
    with Server(port=0) as server, TcpProxy(random.Random(0)) as silent:
        silent.target = server.port
        silent.pause()
        dialer = GrpcDialer("127.0.0.1", silent.port)
        with pytest.raises(LineLostError, match=r"did not answer within 0\.3 s"):
            run_in_loop(dialer.dial("samples"))
        run_in_loop(dialer.close())


@pytest.mark.parametrize("turns", range(6))
def test_a_cancellation_that_comes_together_with_what_is_awaited_is_not_lost(turns):
    """It would leave the old connection's sender running, and the line would wait for it for ever."""

    class Busy:
        may_send = True

    async def cancelled(line):
        task = asyncio.ensure_future(line._until_due(Busy()))
        await asyncio.sleep(0.02)
        line._wake.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=2)
        is_cancelled = task.cancelled()
        task.cancel()
        return is_cancelled

    with Server(port=None) as server, WorkerLine(server.loopback, ram_outbox("a"), close_s=0.0) as line:
        line._due_s = lambda: 3600.0
        assert run_in_loop(cancelled(line))


def test_a_server_that_hangs_up_at_once_is_dialled_less_and_less_and_told_of(monkeypatch, caplog):
    """A full disk of the server, say: without this, ten times a second for ever, and in silence."""
    dials = []

    class Connection:
        async def close(self):
            pass

    class Dialer:
        address = "far away"

        async def dial(self, service, life):
            dials.append(asyncio.get_running_loop().time())
            return Connection()

    async def refuse(_):
        raise LineLostError("its disk is full")

    async def keep():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5):
                await keep_connected(Dialer(), "samples", refuse, dials.append)

    monkeypatch.setattr("tmrl.waiting.TELL_AFTER_S", 0.3)
    run_in_loop(keep())
    assert 3 <= len(dials) <= 6
    assert "waiting for a connection for samples" in caplog.text
    assert "on the server: its disk is full" in caplog.text


def test_a_connection_that_lasted_is_dialled_again_soon(monkeypatch):
    monkeypatch.setattr("tmrl.networking.reconnect.LASTED_S", 0.1)
    pauses = []

    class Connection:
        async def close(self):
            pass

    class Dialer:
        address = "far away"
        left_at = None

        async def dial(self, service, life):
            if self.left_at is not None:
                pauses.append(asyncio.get_running_loop().time() - self.left_at)
            return Connection()

    async def keep():
        dialer = Dialer()

        async def use(_):
            await asyncio.sleep(0.15)
            dialer.left_at = asyncio.get_running_loop().time()
            raise LineLostError("a cut")

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2.0):
                await keep_connected(dialer, "samples", use, pauses.append)

    run_in_loop(keep())
    assert len(pauses) >= 4
    assert sorted(pauses)[len(pauses) // 2] < 0.3


def test_a_worker_takes_over_from_a_connection_that_takes_nothing_any_more(monkeypatch):
    monkeypatch.setattr("tmrl.networking.hub.HANG_UP_S", 0.2)

    async def fill(server):
        """Fills the way to a worker that does not listen."""
        connection = await server.loopback.dial("samples")
        await connection.send(to_frame(Hello("a", 1, 0)))
        for number in range(FRAMES_IN_FLIGHT + 4):
            await connection.send(to_frame(Skip(number, (1,))))
            await asyncio.sleep(0.005)

    with Server(port=None) as server, TrainerLine(server.loopback) as trainer:
        run_in_loop(fill(server))
        with WorkerLine(server.loopback, ram_outbox("a"), batch_s=0.0, close_s=0.1) as line:
            line.send(numbered("a", 0, 10))
            until(lambda: len(trainer.retrieve_buffer()) > 0, 5)


def test_a_server_that_begins_anew_gets_the_policy_again_and_counts_it_once():
    """Else workers that wait for a policy and a trainer that waits for samples would wait for ever."""
    with Server(port=None) as first:
        trainer = TrainerLine(first.loopback)
        trainer.broadcast_model(Policy())
        until(lambda: first.report()["policy_version"] == 1)
        run_in_loop(first.loopback.cut())
        time.sleep(0.5)
        assert first.report()["policy_version"] == 1
    with Server(port=None) as second:
        run_in_loop(trainer._dialer.start(second._hub.serve))
        until(lambda: second.report()["policy_version"] == 1)
        trainer.close()


def test_nothing_of_what_came_is_dropped_however_much_it_is(monkeypatch):
    """A Buffer drops its oldest samples beyond half a million; what a trainer retrieves must not."""
    monkeypatch.setattr(ChunkBuffer.__init__, "__defaults__", ((), 15))
    with (
        Server(port=None) as server,
        TrainerLine(server.loopback) as trainer,
        WorkerLine(server.loopback, ram_outbox("a"), batch_s=0.0, close_s=0.1) as line,
    ):
        trainer.start()
        line.send(numbered("a", 0, 10))
        line.send(numbered("a", 10, 10))
        until(lambda: len(trainer._queue) == 2)
        assert len(trainer.retrieve_buffer()) == 20


def test_a_spool_that_cannot_be_synced_takes_nothing_more_and_says_so(tmp_path, monkeypatch, caplog):
    def fail(_):
        raise StorageError("the disk is broken")

    with Server(port=None, spool=tmp_path / "spool") as server:
        line = WorkerLine(server.loopback, ram_outbox("a"), batch_s=0.0, close_s=0.0)
        with monkeypatch.context() as patch:
            patch.setattr(DiskLog, "sync", fail)
            line.send(numbered("a", 0, 10))
            until(lambda: "nothing more is taken" in caplog.text)
            line.send(numbered("a", 10, 10))
            until(lambda: "the server cannot keep what it gets: the disk is broken" in caplog.text)
        assert line.outbox.settled == 0
        line.close()


def test_a_disk_that_takes_no_note_does_not_part_the_server_from_its_trainer(tmp_path, monkeypatch, caplog):
    def fail(*_, **__):
        raise StorageError("no space left")

    monkeypatch.setattr("tmrl.networking.spool.RELEASE_INTERVAL_S", 0.0)
    with (
        Server(port=None, spool=tmp_path / "spool") as server,
        TrainerLine(server.loopback) as trainer,
        WorkerLine(server.loopback, ram_outbox("a"), batch_s=0.0, close_s=0.1) as line,
    ):
        with monkeypatch.context() as patch:
            patch.setattr(DiskLog, "note", fail)
            line.send(numbered("a", 0, 10))
            until(lambda: len(trainer.retrieve_buffer()) > 0)
            trainer.retrieve_buffer()
            until(lambda: "the spool cannot give room back yet" in caplog.text)
        line.send(numbered("a", 10, 10))
        until(lambda: len(trainer.retrieve_buffer()) > 0)
    assert "is refused" not in caplog.text


def test_a_worker_that_was_refused_lets_go_of_its_outbox_and_its_environment(tmp_path):
    with Server(port=0) as server:
        place = {"server_port": server.port, "worker_id": "a", "outbox": tmp_path, "close_s": 0.0}
        worker = RolloutWorker(CountingEnv, CountingActor, **place)
        worker.sink._give_up(RefusedError("it was revoked"))
        worker.collect_steps(1)
        with pytest.raises(RefusedError, match="it was revoked"):
            worker.close()
        outbox_of("a", tmp_path).close()
