"""The documented pipeline over a real server, as user code calls it."""

import functools
import threading
import time
import warnings

import numpy as np
import pytest
import torch

from dummies import CountingEnv, ListMemory
from networking.numbered import until
from networking.plain import CarefulEnv, PlainActor, PlainAgent
from tmrl.errors import StalledError
from tmrl.memory import ReplayMemory
from tmrl.networking import RolloutWorker, Server, Trainer
from tmrl.training import TrainingOffline


@pytest.fixture
def server():
    with Server(port=0) as server:
        yield server


def make_worker(server, **options):
    options = {"worker_id": "w", "outbox": "ram", "close_s": 0.2, "wait_limit_s": 20.0} | options
    return RolloutWorker(CarefulEnv, PlainActor, server_ip="127.0.0.1", server_port=server.port, **options)


def make_training(memory_cls, seen, **options):
    def on_update(run, _):
        seen.append(run)

    return functools.partial(
        TrainingOffline,
        (CountingEnv.observation_space, CountingEnv.action_space),
        memory_cls,
        PlainAgent,
        epochs=2,
        rounds=1,
        steps=5,
        update_model_interval=1,
        update_buffer_interval=1,
        sleep_between_buffer_retrieval_attempts=0.01,
        start_training=10,
        device="cpu",
        on_update=on_update,
        **options,
    )


def train(server, memory_cls):
    """Trains to the end over the server, and returns the training."""
    seen = []
    with Trainer(make_training(memory_cls, seen), server_ip="127.0.0.1", server_port=server.port) as trainer:
        trainer.run()
    return seen[-1]


def samples_in(server):
    """Samples that came to the server."""
    return sum(worker["samples"] for worker in server.report()["workers"])


class Collecting:
    """A worker in a thread, until the end of the block."""

    def __init__(self, server, loop):
        self.worker = make_worker(server)
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=loop, args=(self.worker, self.is_over))

    def __enter__(self):
        self.thread.start()
        return self.worker

    def __exit__(self, *_):
        self.is_over.set()
        self.thread.join(20)
        assert not self.thread.is_alive()
        self.worker.close()


def episodes_until(worker, is_over):
    while not is_over.is_set():
        worker.run(nb_episodes=1, verbose=False)
        time.sleep(0.002)


@pytest.mark.parametrize(
    "memory_cls",
    [
        functools.partial(ListMemory, batch_size=4),
        functools.partial(ReplayMemory, batch_size=4, memory_size=10_000, seed=0),
    ],
    ids=["a memory of the user's own", "ReplayMemory"],
)
def test_a_training_runs_to_its_end_from_what_a_worker_sends(server, memory_cls):
    """B59: the whole path; and the worker acts with the policies that come back."""
    with Collecting(server, episodes_until) as worker:
        run = train(server, memory_cls)
        until(lambda: worker.policy_version >= 10)
    assert run.total_updates == 10
    assert run.total_samples >= 10
    prev_obs, new_act, rew, new_obs, terminated, truncated = run.agent.batches[-1]
    assert prev_obs.shape == new_obs.shape == (4, 2)
    assert torch.equal(prev_obs[:, 0], new_obs[:, 0]), "of one episode"
    assert torch.equal(prev_obs[:, 1] + 1, new_obs[:, 1]), "and of consecutive steps"
    assert rew.tolist() == [1.0] * 4
    assert new_act.shape == (4, 1)
    assert torch.equal(terminated, (new_obs[:, 1] == 4).float())
    assert not truncated.any()
    assert worker.actor.value == 10.0
    assert run.memory.stat_train_steps == 4


def test_samples_of_any_form_reach_a_memory_of_the_users_own_as_they_are(server):
    """A compressor may return what it likes."""
    sent = ("text", {"a": [1, 2.5, None]}, b"bytes", True, np.arange(3, dtype=np.int16))

    class Keeping(ListMemory):
        def append_buffer(self, buffer):
            kept.extend(buffer.memory)
            return super().append_buffer(buffer)

    kept = []

    def compress(act, obs, rew, terminated, truncated, info):
        return act, obs, rew, terminated, truncated, {"sent": sent}

    with make_worker(server, sample_compressor=compress) as worker:
        for _ in range(5):
            worker.collect_train_episode()
        worker.send_and_clear_buffer()
        until(lambda: server.report()["spool"]["parcels"] > 0)
        train(server, functools.partial(Keeping, batch_size=4))
    assert len(kept) == 25
    for sample in kept:
        *others, array = sample[5]["sent"]
        assert tuple(others) == sent[:-1]
        assert array.dtype == np.int16
        assert array.tolist() == [0, 1, 2]


def test_a_loop_of_the_users_own_waits_for_a_policy_and_acts_with_it(server):
    def own_loop(worker, is_over):
        while not is_over.is_set():
            worker.collect_train_episode(max_samples=3)
            worker.send_and_clear_buffer()
            if not is_over.wait(0.01):
                worker.update_actor_weights(verbose=False)
        counts.append(len(worker.buffer))

    counts = []
    with Collecting(server, own_loop) as worker:
        run = train(server, functools.partial(ListMemory, batch_size=4))
        until(lambda: worker.policy_version >= 10)
    assert run.total_updates == 10
    assert counts == [0]


def test_a_blocking_update_waits_for_the_policy_and_says_what_it_waits_for(server):
    match = "worker 'w' has awaited a policy from the trainer through 127"
    with make_worker(server, wait_limit_s=0.1) as worker, pytest.raises(StalledError, match=match):
        worker.update_actor_weights(blocking=True)
    actor = PlainActor()
    actor.value = 3.0
    with (
        make_worker(server) as worker,
        Trainer(make_training(ListMemory, []), "127.0.0.1", server.port) as trainer,
    ):
        trainer._source.broadcast_model(actor)
        assert worker.update_actor_weights(blocking=True) == 1
        assert worker.actor.value == 3.0


def test_a_synchronous_worker_goes_no_further_than_its_trainer_lets_it(server):
    def in_step(worker, is_over):
        worker.run_synchronous(nb_steps=60, initial_steps=10, max_steps_per_update=20, end_episodes=False)
        is_over.wait(20)

    with Collecting(server, in_step) as worker:
        run = train(server, functools.partial(ListMemory, batch_size=4))
        until(lambda: samples_in(server) >= 60)
    assert run.total_updates == 10
    assert worker.policy_version >= 1


def test_an_expert_keeps_its_policy(server):
    actor = PlainActor()
    actor.value = 3.0
    with (
        make_worker(server) as worker,
        Trainer(make_training(ListMemory, []), "127.0.0.1", server.port) as trainer,
    ):
        trainer._source.broadcast_model(actor)
        until(lambda: worker.sink._policy is not None)
        worker.run(nb_episodes=2, expert=True)
        assert worker.actor.value == 0.0
        assert worker.ignore_actor_weights() == 0
        until(lambda: samples_in(server) == 10)


def test_test_episodes_are_not_collected(server):
    with make_worker(server) as worker:
        worker.run_episodes(nb_episodes=2)
        assert [record.is_test for record in worker.buffer.episodes] == [True, True]
        worker.run(test_episode_interval=1, nb_episodes=1, verbose=False)
        until(lambda: samples_in(server) == 5)


def test_closing_a_worker_sends_what_it_has_collected(server):
    with make_worker(server) as worker:
        worker.collect_train_episode()
    assert samples_in(server) == 5
    assert worker.env.unwrapped.is_closed


def test_arguments_of_the_old_transport_are_ignored_with_one_warning_each(server):
    with pytest.warns(UserWarning, match="RolloutWorker ignores password, local_port") as caught:
        make_worker(server, password="p", local_port=1).close()
    assert [warning.filename for warning in caught] == [__file__]
    with pytest.warns(UserWarning, match="Trainer ignores security: .* use credential= instead") as caught:
        Trainer(make_training(ListMemory, []), "127.0.0.1", server.port, security="TLS").close()
    assert [warning.filename for warning in caught] == [__file__]
    with pytest.warns(UserWarning, match="Server ignores password, header_size: .* credentials=") as caught:
        Server(0, "p", header_size=12).close()
    assert [warning.filename for warning in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_worker(server).close()


def test_another_machine_needs_a_credential():
    match = "a line to another machine needs a credential, got none for 10.0.0.7; on the server run"
    with pytest.raises(ValueError, match=match):
        RolloutWorker(CarefulEnv, PlainActor, server_ip="10.0.0.7")
    with pytest.raises(ValueError, match=match):
        Trainer(make_training(ListMemory, []), server_ip="10.0.0.7")
    with pytest.raises(ValueError, match="a server that others can reach needs credentials, got none for 0"):
        Server(0, host="0.0.0.0")


def test_a_trainer_that_never_ran_ends_at_once(server):
    with Trainer(make_training(ListMemory, []), "127.0.0.1", server.port):
        pass
    with Trainer(make_training(ListMemory, []), "127.0.0.1", 1):
        pass
