"""Workers in step with a trainer that waits itself: neither waits for the other for ever."""

import threading
from contextlib import suppress
from functools import partial

import pytest

from dummies import CountingEnv
from networking.numbered import numbered, ram_outbox, until
from networking.plain import CarefulEnv, PlainActor, PlainAgent
from tmrl.errors import StalledError
from tmrl.memory import ReplayMemory
from tmrl.networking import RolloutWorker, Server, Trainer
from tmrl.networking.grpc_transport import GrpcDialer
from tmrl.networking.trainer_line import TrainerLine
from tmrl.networking.worker_line import WorkerLine
from tmrl.training import TrainingOffline, offline
from tmrl.transition import Sample


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch):
    monkeypatch.setattr(offline, "CALL_AFTER_S", 0.05)


class InStep:
    """A worker that collects in a thread, in step with its trainer, until the end of the block."""

    def __init__(self, server, name="w", length=4, **options):
        self.line = WorkerLine(server.loopback, ram_outbox(name), batch_s=0.01, close_s=0.1)
        env_cls = partial(CarefulEnv, length)
        self.worker = RolloutWorker(env_cls, PlainActor, worker_id=name, sink=self.line, wait_limit_s=60)
        self.run = partial(self.worker.run_synchronous, **{"end_episodes": False} | options)
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        with suppress(StalledError):
            self.run()

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.line._give_up(StalledError("the test is over"))
        self.thread.join(20)
        self.line.close()


def training(**options):
    settings = {
        "epochs": 1,
        "rounds": 1,
        "steps": 40,
        "update_model_interval": 10,
        "update_buffer_interval": 10,
        "sleep_between_buffer_retrieval_attempts": 0.01,
        "device": "cpu",
    }
    spaces = CountingEnv.observation_space, CountingEnv.action_space
    memory_cls = partial(ReplayMemory, batch_size=4, seed=0)
    return TrainingOffline(spaces, memory_cls, PlainAgent, **(settings | options))


def trained(server, run, **options):
    with Trainer(lambda: run, source=TrainerLine(server.loopback), **options) as trainer:
        trainer.run()
    return run


def test_a_warm_up_of_more_samples_than_all_workers_begin_with_is_no_deadlock(server):
    with (
        InStep(server, "a", initial_steps=5, max_steps_per_update=5),
        InStep(server, "b", initial_steps=5, max_steps_per_update=5),
    ):
        run = trained(server, training(start_training=100))
    assert run.total_updates == 40
    assert run.total_samples >= 100


def test_policies_that_allow_too_few_samples_are_no_deadlock(server):
    """By the numbers: an episode is 31 samples, for which a worker would await ten policies."""
    with InStep(server, length=30, max_steps_per_update=3, end_episodes=True):
        run = trained(server, training(update_model_interval=1000))
    assert run.total_updates == 40


def test_a_worker_that_is_gone_does_not_stop_the_others(server):
    """By the numbers each of the two gives half of the samples for the next policy."""
    gone = InStep(server, "gone", initial_steps=5, max_steps_per_update=5, nb_steps=5)
    with gone, InStep(server, "stays", initial_steps=5, max_steps_per_update=5):
        run = trained(server, training())
    assert run.total_updates == 40
    assert run.memory.stats().workers["gone"].appended <= 15


def test_a_trainer_that_goes_on_is_no_deadlock(server, tmp_path):
    """Its worker has had its policy, and it has had the worker's samples."""
    with InStep(server, initial_steps=5, max_steps_per_update=10):
        trained(server, training(), checkpoint_path=tmp_path / "checkpoint")
        run = trained(
            server, training(epochs=2, update_model_interval=1000), checkpoint_path=tmp_path / "checkpoint"
        )
    assert run.total_updates == 80


def test_a_policy_that_comes_again_is_told_from_a_new_one(server):
    actor = PlainActor()
    line = WorkerLine(server.loopback, ram_outbox("w"), close_s=0.1)
    with TrainerLine(server.loopback) as trainer, line:
        for value, is_again in ((1.0, False), (1.0, True), (2.0, False)):
            actor.value = value
            trainer.broadcast_model(actor)
            received = line.receive(20.0, PlainActor())
            assert (received.n_policies, received.actor.value) == (1, value)
            assert received.is_again == is_again


# A trainer that is slower than its workers.


def test_samples_that_are_too_far_ahead_stay_where_they_are(server):
    """However many have come together meanwhile; the memory gets them parcel by parcel."""
    totals = []
    run = training(
        update_buffer_interval=1,
        max_env_steps_ahead=20,
        on_update=lambda run, _: totals.append((run.total_updates, run.total_samples)),
    )
    with WorkerLine(server.loopback, ram_outbox("w"), batch_s=0.01, close_s=0.1) as line:
        for first in range(0, 500, 10):
            line.send(numbered_plainly(first))
        until(lambda: server.report()["spool"]["parcels"] == 50)
        trained(server, run)
    assert all(samples < 1 + updates + 20 + 10 for updates, samples in totals)
    assert totals[-1][1] >= 40


def test_a_real_time_worker_is_not_held_up_by_a_trainer_that_takes_nothing():
    """Spool and outbox are full; the oldest episodes go, and each is counted."""
    box = ram_outbox("w", 4_000, "drop", wait_limit_s=0.0)
    with (
        Server(port=0, spool_bytes=4_000) as server,
        TrainerLine(GrpcDialer("127.0.0.1", server.port), max_bytes=1) as trainer,
        WorkerLine(GrpcDialer("127.0.0.1", server.port), box, batch_s=0.01, close_s=0.1) as line,
    ):
        trainer.start()
        for first in range(0, 5000, 10):
            line.send(numbered_plainly(first))
        assert box.dropped_samples > 0


def numbered_plainly(first):
    """Ten samples of an environment whose observations have two numbers."""
    buffer = numbered("w", first, 10)
    buffer.memory = [
        Sample((act, obs[:2], *rest), sample.stamp)
        for sample in buffer.memory
        for act, obs, *rest in [sample]
    ]
    return buffer
