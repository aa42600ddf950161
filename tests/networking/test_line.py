"""The line from workers to the trainer, over the transport within a process."""

import random
import time
from functools import partial

import numpy as np
import pytest
import torch

from dummies import CountingAgent, CountingEnv, Policy
from makers import parcel_of
from networking.ends import retrieve, worker_line
from networking.numbered import numbered, ram_outbox, steps_of, until
from tmrl.buffer import Buffer
from tmrl.errors import RefusedError, StalledError, StorageError
from tmrl.memory import ReplayMemory
from tmrl.networking import background, hub, trainer_line
from tmrl.networking.messages import Welcome, to_frame
from tmrl.networking.parcel import Wishes
from tmrl.networking.server import Server
from tmrl.networking.spool import Spool
from tmrl.networking.trainer_line import TrainerLine
from tmrl.networking.transport import Loopback, Peer
from tmrl.networking.worker_line import WorkerLine
from tmrl.training import TorchTrainingOffline
from tmrl.transition import Sample, Stamp


def test_samples_of_several_workers_arrive_in_their_order(server, trainer):
    with worker_line(server, "a") as a, worker_line(server, "b") as b:
        for first in range(0, 100, 10):
            a.send(numbered("a", first, 10))
            b.send(numbered("b", first, 10))
        assert steps_of(retrieve(trainer, 200)) == {"a": list(range(100)), "b": list(range(100))}
        trainer.retrieve_buffer()
        assert a.flush(5)
        assert b.flush(5)


def test_a_memory_gets_rows_once_the_trainer_is_attached(server, trainer):
    memory = ReplayMemory(memory_size=1000, batch_size=8, seed=0)
    with worker_line(server, "a") as a:
        a.send(numbered("a", 0, 14))
        memory.append(retrieve(trainer, 14))
        trainer.attach(memory)
        until(lambda: a._encoder.wishes is not None)
        a.send(numbered("a", 14, 14))
        buffer = trainer.retrieve_buffer()
        while not len(buffer):
            buffer = trainer.retrieve_buffer()
        assert buffer.row_parts()
        memory.append(buffer)
    assert len(memory) == 24
    batch = memory.sample()
    assert torch.equal(batch.prev_obs + 1, batch.new_obs)


def test_an_outbox_is_put_on_the_disk_also_while_there_is_no_server(tmp_path, monkeypatch):
    from tmrl.networking import worker_line as module
    from tmrl.networking.connecting import outbox_of

    monkeypatch.setattr(module, "SYNC_INTERVAL_S", 0.01)
    outbox = outbox_of("a", tmp_path)
    with WorkerLine(Loopback(), outbox, close_s=0.0) as line:
        line.send(numbered("a", 0, 10))
        until(lambda: outbox._log._synced == outbox.next == 1)


def test_more_samples_than_a_buffer_usually_holds_arrive_at_once(server, trainer):
    """What was acknowledged is never clipped, however long the loop did not ask for it."""
    parcel = parcel_of(numbered("a", 0, 1000), Wishes())
    with worker_line(server, "a") as a:
        trainer.start()
        for _ in range(510):
            a.outbox.put([parcel])
        a.flush(0)
        until(lambda: trainer._received == 510)
        assert len(trainer.retrieve_buffer()) == 510_000


def test_episodes_and_their_statistics_arrive(server, trainer):
    from tmrl.transition import EpisodeRecord

    buffer = numbered("a", 0, 3)
    buffer.record_episode(EpisodeRecord("a", 12.5, 3, is_test=False, policy_version=4))
    with worker_line(server, "a") as a:
        a.send(buffer)
        arrived = retrieve(trainer, 3)
    assert arrived.episodes == buffer.episodes
    assert (arrived.stat_train_return, arrived.stat_train_steps) == (12.5, 3)


@pytest.mark.parametrize("seed", range(6))
def test_connections_that_are_cut_lose_nothing_and_double_nothing(server, trainer, seed):
    rng = random.Random(seed)
    names = ["a", "b", "c"]
    lines = [worker_line(server, name) for name in names]
    buffer, n_sent = Buffer(), 0
    for first in range(0, 300, 10):
        for name, line in zip(names, lines, strict=True):
            line.send(numbered(name, first, 10))
            n_sent += 10
        if rng.random() < 0.5:
            server.loopback.cut_after = rng.randrange(12)
        buffer += trainer.retrieve_buffer()
        time.sleep(0.005)
    server.loopback.cut_after = None
    if len(buffer) < n_sent:
        buffer += retrieve(trainer, n_sent - len(buffer))
    trainer.retrieve_buffer()
    for line in lines:
        assert line.flush(10)
        line.close()
    assert steps_of(buffer) == {name: list(range(300)) for name in names}
    assert [worker["lost"] for worker in server.report()["workers"]] == [0, 0, 0]


def test_a_trainer_that_goes_on_from_its_checkpoint_gets_what_came_after_it(server):
    """What was handed over after the checkpoint was made is handed over again, and nothing before it."""
    with worker_line(server, "a") as a:
        with TrainerLine(server.loopback) as first:
            first.state()
            a.send(numbered("a", 0, 10))
            before = retrieve(first, 10)
            state = first.state()
            first.commit(state)
            a.send(numbered("a", 10, 10))
            retrieve(first, 10)  # and then it is killed
        with TrainerLine(server.loopback) as second:
            second.restore(state)
            a.send(numbered("a", 20, 10))
            after = retrieve(second, 20)
    assert steps_of(before) == {"a": list(range(10))}
    assert steps_of(after) == {"a": list(range(10, 30))}


def test_without_a_trainer_the_server_keeps_what_comes(server):
    with worker_line(server, "a") as a:
        a.send(numbered("a", 0, 10))
        until(lambda: server.report()["spool"]["parcels"] == 1)
    with TrainerLine(server.loopback) as trainer:
        assert steps_of(retrieve(trainer, 10)) == {"a": list(range(10))}


def test_a_server_in_ram_that_is_replaced_loses_nothing():
    """It never said that anything is durable, so the worker still has it."""
    with Server(port=None) as first:
        line = worker_line(first, "a")
        line.send(numbered("a", 0, 10))
        until(lambda: first.report()["spool"]["parcels"] == 1)
    with Server(port=None) as second, TrainerLine(second.loopback) as trainer:
        background.run(line._dialer.start(second._hub.serve))
        assert steps_of(retrieve(trainer, 10)) == {"a": list(range(10))}
        line.close()


def test_waiting_for_a_policy_sends_what_waits(server, trainer):
    """So a synchronous worker never waits for a policy that waits for its samples."""
    with WorkerLine(server.loopback, ram_outbox("a"), batch_s=3600, close_s=0.1) as a:
        time.sleep(0.1)  # the first connection sends whatever there is
        a.send(numbered("a", 0, 10))
        assert a.receive(0.2, Policy()).n_policies == 0
        retrieve(trainer, 10, timeout_s=5)


def test_small_parcels_go_together(server, trainer):
    with WorkerLine(server.loopback, ram_outbox("a"), batch_s=0.3, close_s=0.1) as a:
        until(lambda: server.report()["workers"])
        time.sleep(0.05)
        sent_at = time.monotonic()
        a.send(numbered("a", 0, 1))
        a.send(numbered("a", 1, 1))
        retrieve(trainer, 2)
        assert time.monotonic() - sent_at > 0.2


def test_another_protocol_version_is_refused(server, monkeypatch):
    monkeypatch.setattr("tmrl.networking.hub.VERSION", 2)
    line = worker_line(server, "a")
    with pytest.raises(RefusedError, match="speaks version 2 of the protocol, got 1"):
        until(lambda: line.send(numbered("a", 0, 1)))
    line.close()


@pytest.mark.parametrize(
    ("peer", "reason"),
    [
        (Peer("there", "b", "worker"), "the certificate is that of 'b', and not of 'a'"),
        (
            Peer("there", "boss", "trainer"),
            "needs the certificate of a worker, got that of the trainer 'boss'",
        ),
    ],
)
def test_a_worker_must_be_whom_its_certificate_names(server, peer, reason):
    server.loopback._peer = peer
    line = worker_line(server, "a")
    with pytest.raises(RefusedError, match=reason):
        until(lambda: line.send(numbered("a", 0, 1)))
    line.close()
    assert server.report()["workers"] == []


def test_a_worker_is_no_trainer(server):
    server.loopback._peer = Peer("there", "a", "worker")
    with (
        TrainerLine(server.loopback) as trainer,
        pytest.raises(RefusedError, match="needs the certificate of a trainer, got that of the worker 'a'"),
    ):
        until(lambda: len(trainer.retrieve_buffer()))


def test_a_peer_that_talks_nonsense_is_hung_up_on_and_nobody_else(server, trainer, caplog):
    async def talk(frame):
        connection = await server.loopback.dial("samples")
        await connection.send(frame)
        return await connection.receive()

    with worker_line(server, "a") as a:
        for frame in (b"nonsense", bytes(100)) * 3:
            assert b"must be" in background.run(talk(frame), 5)
        a.send(numbered("a", 0, 10))
        retrieve(trainer, 10)
    assert caplog.text.count("is refused: a header must be") == 2  # each once


def test_a_parcel_that_is_none_is_refused_and_nobody_else_notices(server, trainer):
    from tmrl.networking.messages import Hello, Put, to_frame

    async def talk():
        connection = await server.loopback.dial("samples")
        await connection.send(to_frame(Hello("evil", 1, 0)))
        await connection.receive()
        await connection.send(to_frame(Put(0, (7,)), [b"garbage"]))
        while b"a parcel" not in (frame := await connection.receive()):
            pass
        return frame

    assert b"must" in background.run(talk(), 5)
    with worker_line(server, "a") as a:
        a.send(numbered("a", 0, 10))
        retrieve(trainer, 10)


def test_what_grows_when_it_is_decompressed_is_handed_over_bit_by_bit(server):
    """Else a few small parcels of zeros would fill the trainer's memory at once."""
    memory = ReplayMemory(memory_size=1000, batch_size=8, seed=0)
    with (
        TrainerLine(server.loopback, max_bytes=100_000) as trainer,
        worker_line(server, "a", compress=("obs",)) as a,
    ):
        trainer.attach(memory)
        trainer.start()
        until(lambda: a._encoder.wishes is not None)
        for step in range(20):
            buffer = Buffer()
            stamp = Stamp("a", 1, step, 0, step)
            act = np.zeros(1, np.float32)
            buffer.append_sample(Sample((act, np.zeros(10_000, np.float32), 0.0, False, False, {}), stamp))
            a.send(buffer)
        until(lambda: trainer._received >= 20)
        assert trainer._queued_bytes < 20_000
        sizes = [len(trainer.retrieve_buffer()) for _ in range(8)]
    assert (max(sizes), sum(sizes)) == (3, 20)


def test_a_trainer_to_whom_nothing_comes_is_told_so(server):
    with (
        TrainerLine(server.loopback, wait_limit_s=0.1) as trainer,
        pytest.raises(
            StalledError, match=r"waited for samples since .* the workers, through the server in this process"
        ),
    ):
        until(lambda: len(trainer.retrieve_buffer()))


def test_a_closed_line_says_so(server):
    line = worker_line(server, "a")
    line.close()
    with pytest.raises(ValueError, match="the line to the server in this process is closed"):
        line.send(numbered("a", 0, 1))


def test_what_cannot_travel_is_refused_at_once_and_names_the_entry(server, trainer):
    buffer = Buffer()
    buffer.append_sample((np.zeros(1), np.zeros(1), 0.0, False, False, {"cache": {"x": object()}}))
    with worker_line(server, "a") as a:
        with pytest.raises(ValueError, match=r"cache"):
            a.send(buffer)
        a.send(numbered("a", 0, 2))
        assert len(retrieve(trainer, 2)) == 2


def test_a_worker_whose_samples_the_memory_refuses_disturbs_nobody(server, trainer, caplog):
    """Each parcel is taken or refused by itself, and the refusal is said once."""
    training = TorchTrainingOffline(
        (CountingEnv.observation_space, CountingEnv.action_space),
        partial(ReplayMemory, memory_size=100, batch_size=2),
        CountingAgent,
        steps=1,
        device="cpu",
    )
    with worker_line(server, "good") as good, worker_line(server, "bad") as bad:
        good.send(numbered("good", 0, 7))
        until(lambda: (training.update_buffer(trainer), training.total_samples)[1] == 7)
        for first in (0, 7):
            odd = numbered("bad", first, 7)
            odd.memory = [Sample((*s[:1], s[1][:2], *s[2:]), s.stamp) for s in odd.memory]
            bad.send(odd)
        good.send(numbered("good", 7, 7))
        until(lambda: (training.update_buffer(trainer), training.total_samples)[1] == 14)
        until(lambda: (training.update_buffer(trainer), training.refused_samples)[1] == 14)
    assert len(training.memory) == 12
    assert caplog.text.count("the memory refuses samples of bad: worker 'bad', sample 0 of 7: obs") == 1


def test_a_buffer_that_makes_too_large_a_parcel_is_refused_at_once(server, trainer, monkeypatch):
    monkeypatch.setattr("tmrl.networking.worker_line.MAX_PARCEL_BYTES", 1000)
    with worker_line(server, "a") as a:
        with pytest.raises(
            ValueError, match=r"100 samples make a parcel of .* bytes, and one may have 1,000"
        ):
            a.send(numbered("a", 0, 100))
        a.send(numbered("a", 0, 2))
        assert len(retrieve(trainer, 2)) == 2


def test_a_disk_that_fails_is_told_and_nothing_is_promised(tmp_path, caplog, monkeypatch):
    def fail():
        raise StorageError("the disk is broken")

    with Server(port=None, spool=tmp_path) as server, worker_line(server, "a") as line:
        monkeypatch.setattr(server._hub.spool, "sync", fail)
        for first in range(0, 30, 10):
            line.send(numbered("a", first, 10))
            until(lambda: "until this server is started again: the disk is broken" in caplog.text)
        until(lambda: "the server cannot keep what it gets: the disk is broken" in caplog.text)
        assert line.outbox.settled == 0
        monkeypatch.undo()  # for the end of the server


WISHED = Wishes(("success",))


def test_what_is_wished_while_a_worker_is_welcomed_reaches_it(server, monkeypatch):
    def meanwhile(message, *body):
        frame = to_frame(message, *body)
        if isinstance(message, Welcome):
            server._hub._wishes = WISHED.to_json()
            server._hub._tell_all()
        return frame

    monkeypatch.setattr(hub, "to_frame", meanwhile)
    with worker_line(server, "a") as a:
        until(lambda: a._encoder.wishes == WISHED)


def test_what_a_trainer_wishes_while_it_answers_reaches_the_server(server, trainer, monkeypatch):
    def meanwhile(message, *body):
        frame = to_frame(message, *body)
        if isinstance(message, Welcome):
            trainer._wishes = WISHED.to_json()
            trainer._changed.set()
        return frame

    monkeypatch.setattr(trainer_line, "to_frame", meanwhile)
    trainer.start()
    until(lambda: server._hub._wishes == WISHED.to_json())


@pytest.mark.timeout(60)
def test_a_server_in_this_process_closes_while_a_worker_waits_for_room(monkeypatch):
    refused, has_room = [], Spool.has_room

    def watched(spool, name, put):
        refused.extend(() if has_room(spool, name, put) else (name,))
        return not refused

    monkeypatch.setattr(Spool, "has_room", watched)
    server = Server(port=None, spool_bytes=50_000)
    with WorkerLine(server.loopback, ram_outbox("a"), batch_s=0.0, close_s=0.1) as worker:
        for first in range(0, 5_000, 100):
            worker.send(numbered("a", first, 100))
        until(lambda: refused)
        server.close()
