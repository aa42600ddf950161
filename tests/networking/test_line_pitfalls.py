"""The pitfalls of PITFALLS.md that the line owns, over the line: workers, a server, a trainer, its memory."""

import random
import threading
import time

import numpy as np
import pytest
import torch

from networking.numbered import EPISODE, numbered, ram_outbox, until
from tmrl.buffer import Buffer
from tmrl.errors import RefusedError
from tmrl.memory import NStep, ReplayMemory
from tmrl.networking import background
from tmrl.networking.connecting import outbox_of
from tmrl.networking.messages import Put, from_frame
from tmrl.networking.server import Server
from tmrl.networking.trainer_line import TrainerLine
from tmrl.networking.transport import _End
from tmrl.networking.worker_line import WorkerLine
from tmrl.transition import Sample, Stamp


def line_of(server, name, outbox=None, **options):
    options = {"batch_s": 0.0, "close_s": 0.1} | options
    return WorkerLine(server.loopback, outbox or ram_outbox(name), **options)


def fill(memory, trainer, n_rows, timeout_s=20.0):
    """Lets a memory take what comes, until it has so many rows."""
    until(lambda: _append(memory, trainer) >= n_rows, timeout_s)


def _append(memory, trainer):
    memory.append(trainer.retrieve_buffer())
    return memory.stats().appended


@pytest.mark.parametrize("is_attached", [False, True])
def test_streams_of_eight_workers_do_not_mix_in_windows_of_three_steps(server, is_attached):
    """B10: whether they travel as rows or as samples; chunks of three, interleaved and at their own pace."""
    rng = random.Random(0)
    memory = ReplayMemory(memory_size=10_000, batch_size=512, window=NStep(3, 1.0), seed=0)
    with TrainerLine(server.loopback) as trainer:
        lines = {f"w{i}": line_of(server, f"w{i}") for i in range(8)}
        if is_attached:
            trainer.attach(memory)
            trainer.start()
            until(lambda: all(line._encoder.wishes is not None for line in lines.values()))
        next_step = {name: 1000 * i * EPISODE for i, name in enumerate(lines)}
        for _ in range(8 * 20):
            name = rng.choice(sorted(lines))
            lines[name].send(numbered(name, next_step[name], 3))
            next_step[name] += 3
            if rng.random() < 0.2:
                _append(memory, trainer)
        fill(memory, trainer, 8 * 20 * 3)
        for line in lines.values():
            line.close()
    batch = memory.sample()
    prev_obs, n_steps = batch.prev_obs[:, 0].numpy(), batch.n_steps.numpy()
    assert (batch.new_obs[:, 0].numpy() == prev_obs + n_steps).all()
    assert (prev_obs % EPISODE + n_steps < EPISODE).all()
    sums = [sum(p + i + 1 for i in range(k)) for p, k in zip(prev_obs, n_steps, strict=True)]
    assert (batch.rew.numpy() == sums).all()
    assert len(set((prev_obs // (1000 * EPISODE)).tolist())) == 8


@pytest.mark.parametrize("where", ["ram", "disk"])
@pytest.mark.parametrize("is_attached", [False, True])
def test_what_a_worker_changes_after_send_is_not_what_travels(server, where, is_attached, tmp_path):
    """B39: an environment that writes all its observations into one array, a policy likewise."""
    outbox = outbox_of("a", "ram" if where == "ram" else tmp_path)
    memory = ReplayMemory(memory_size=100, batch_size=32, seed=0)
    obs, act = np.zeros(3, np.float32), np.zeros(1, np.float32)
    with TrainerLine(server.loopback) as trainer, line_of(server, "a", outbox, batch_s=0.2) as line:
        if is_attached:
            trainer.attach(memory)
            trainer.start()
            until(lambda: line._encoder.wishes is not None)
        info = {}
        for step in range(20):
            obs[:], act[:] = step, step
            buffer = Buffer()
            values = (act if step else None, obs, float(step), False, False, info)
            buffer.append_sample(Sample(values, Stamp("a", 1, step, 0, step)))
            line.send(buffer)
            obs[:], act[:], info["junk"] = -1, -1, object()
            buffer.clear()
            info.clear()
        fill(memory, trainer, 20)
    batch = memory.sample()
    assert (batch.new_obs == batch.new_act).all()
    assert (batch.new_obs == batch.prev_obs + 1).all()
    assert (batch.prev_obs >= 0).all()


def test_no_half_written_row_is_drawn_while_rows_arrive(server):
    """B41: one thread appends what comes, another one draws; within a row every number is the same."""
    memory = ReplayMemory(memory_size=300, batch_size=64, seed=0)  # so small that rows are overwritten
    torn, is_over = [], threading.Event()

    def draw():
        while not is_over.is_set():
            if len(memory):
                batch = memory.sample()
                whole = (batch.prev_obs + 1, batch.new_obs, batch.new_act, batch.rew[:, None])
                numbers = torch.cat(whole, dim=1)
                if not (numbers == numbers[:, :1]).all():
                    torn.append(batch)

    with TrainerLine(server.loopback) as trainer, line_of(server, "a") as line:
        trainer.attach(memory)
        drawing = threading.Thread(target=draw)
        drawing.start()
        try:
            for first in range(0, 5000, 50):
                line.send(numbered("a", first, 50))
                _append(memory, trainer)
            fill(memory, trainer, 5000)
        finally:
            is_over.set()
            drawing.join(10)
    assert not torn
    assert memory.stats().draws > 0


def test_parcels_that_arrive_twice_are_stored_once(server, monkeypatch):
    """B42: a network that delivers every message of samples twice, to the server and to the trainer."""
    send = _End.send

    async def twice(end, frame):
        await send(end, frame)
        if isinstance(from_frame(frame), Put):
            await send(end, frame)

    monkeypatch.setattr(_End, "send", twice)
    memory = ReplayMemory(memory_size=1000, batch_size=256, seed=0)
    with TrainerLine(server.loopback) as trainer, line_of(server, "a") as line:
        for first in range(0, 140, 7):
            line.send(numbered("a", first, 7))
            _append(memory, trainer)
        fill(memory, trainer, 140)
        time.sleep(0.1)
        _append(memory, trainer)
        assert server.report()["workers"][0]["duplicates"] > 0
    stats = memory.stats()
    assert (stats.appended, stats.duplicates, len(memory)) == (140, 0, 120)
    batch = memory.take(range(120))
    assert len(set(batch.ids.tolist())) == len(set(batch.new_obs[:, 0].tolist())) == 120


def test_batches_drawn_ahead_are_those_that_would_be_drawn_now(server):
    """B54: samples that arrive through the line put aside what was drawn before them."""
    memories = [ReplayMemory(memory_size=500, batch_size=16, seed=0, prefetch=ahead) for ahead in (0, 3)]
    with TrainerLine(server.loopback) as trainer, line_of(server, "a") as line:
        trainer.attach(memories[0])
        for first in range(0, 700, 35):
            line.send(numbered("a", first, 35))
            buffer = trainer.retrieve_buffer()
            while not len(buffer):
                time.sleep(0.002)
                buffer = trainer.retrieve_buffer()
            for memory in memories:
                memory.append(buffer)
            for _ in range(3):
                plain, ahead = (memory.sample() for memory in memories)
                assert (plain.ids == ahead.ids).all()
                assert (plain.new_obs == ahead.new_obs).all()
    memories[1].close()


def test_a_worker_that_waits_for_room_hears_that_it_is_refused(server, monkeypatch):
    """B55: what goes wrong in the background is raised where the worker waits, and not never."""
    outbox = ram_outbox("a", max_bytes=4000)
    line = line_of(server, "a", outbox)
    failures = []

    def collect():
        try:
            for first in range(0, 10_000, 10):
                line.send(numbered("a", first, 10))
        except RefusedError as error:
            failures.append(error)

    worker = threading.Thread(target=collect, daemon=True)
    worker.start()
    until(lambda: outbox.next > 0)
    time.sleep(0.2)
    assert worker.is_alive()  # nobody takes its samples
    line._give_up(RefusedError("the server refuses: it was revoked"))
    worker.join(5)
    assert not worker.is_alive(), "it waits for ever"
    assert "it was revoked" in str(failures[0])
    line.close()


def test_a_defect_in_the_background_ends_no_line_in_silence(server, monkeypatch):
    """B55: also one that nobody thought of, at either end and in the server."""

    def broken(*_):
        raise RuntimeError("a defect")

    with line_of(server, "a") as line, TrainerLine(server.loopback) as trainer:
        line.send(numbered("a", 0, 10))
        until(lambda: len(trainer.retrieve_buffer()) > 0)
        monkeypatch.setattr(line.outbox, "settle", broken)
        trainer.retrieve_buffer()
        with pytest.raises(RuntimeError, match="a defect"):
            until(lambda: bool(line.send(numbered("a", 10, 1)) or len(trainer.retrieve_buffer()) < 0))
        monkeypatch.setattr(trainer, "_begin", broken)
        background.run(server.loopback.cut())
        with pytest.raises(RuntimeError, match="a defect"):
            until(lambda: trainer.retrieve_buffer() and False)


def test_a_defect_in_the_servers_disk_thread_is_told_to_its_workers(tmp_path, monkeypatch, caplog):
    """B55: else they would wait for ever for their samples to be safe."""

    def broken(*_):
        raise RuntimeError("a defect")

    with Server(port=None, spool=tmp_path) as server, line_of(server, "a", close_s=0.0) as line:
        monkeypatch.setattr(server._hub.spool, "sync", broken)
        line.send(numbered("a", 0, 10))
        until(lambda: "nothing more is taken until this server is started again: a defect" in caplog.text)
        line.send(numbered("a", 10, 10))
        until(lambda: "the server cannot keep what it gets" in caplog.text)
        monkeypatch.undo()  # for the end of the server


def test_a_defect_in_serving_one_peer_is_logged_and_others_are_served(server, monkeypatch, caplog):
    """B55: the task of a connection that ends by an exception of ours says so."""

    async def broken(*_):
        raise RuntimeError("a defect")

    monkeypatch.setitem(server._hub._services, "policies", broken)
    with line_of(server, "a") as line, TrainerLine(server.loopback) as trainer:
        line.send(numbered("a", 0, 10))
        until(lambda: len(trainer.retrieve_buffer()) > 0)
        until(lambda: "a defect" in caplog.text)
