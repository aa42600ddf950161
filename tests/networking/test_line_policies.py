"""Policies on their way from the trainer to workers, over the transport within a process."""

import math

import pytest
import torch

from dummies import Policy
from makers import buffer_of, of_policy
from networking.ends import worker_line
from networking.numbered import numbered, until
from tmrl.actor import ActorModule
from tmrl.errors import PolicyError
from tmrl.memory import ReplayMemory
from tmrl.networking import background
from tmrl.networking.server import Server
from tmrl.networking.trainer_line import TrainerLine
from tmrl.networking.transport import Loopback


def test_a_policy_of_another_size_is_refused_in_one_line(server, trainer):
    class Wide(Policy):
        def __init__(self, observation_space=None, action_space=None, device="cpu"):
            super().__init__(observation_space, action_space, device)
            self.layer = torch.nn.Linear(3, 3)

    with worker_line(server, "a") as a:
        trainer.broadcast_model(Wide())
        match = (
            r"the policy that came is none of this worker's Policy: .*size mismatch.*; give the worker and"
        )
        with pytest.raises(PolicyError, match=match) as caught:
            a.receive(10.0, Policy())
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("is_attached", [False, True])
def test_the_policy_that_acted_is_stamped_and_the_memory_tells_its_lag(server, trainer, is_attached):
    memory = ReplayMemory(memory_size=1000, batch_size=64, seed=0)
    if is_attached:
        trainer.attach(memory)
    with worker_line(server, "a") as a:
        until(lambda: (a._encoder.wishes is not None) == is_attached)
        buffer = numbered("a", 0, 14)
        buffer.memory = of_policy(3, buffer.memory[:7]) + of_policy(5, buffer.memory[7:])
        a.send(buffer)
        arrived = trainer.retrieve_buffer()
        while not len(arrived):
            arrived = trainer.retrieve_buffer()
        assert (arrived.row_parts() is not None) == is_attached
        memory.append(arrived)
    assert math.isnan(memory.stats().policy_lag_p50)
    memory.take(range(6))  # the first episode: policy 3 acted
    assert (memory.stats().policy_version, memory.stats().policy_lag_p50) == (5, 2.0)
    memory.take(range(6, 12))
    assert memory.stats().policy_lag_p95 == 0.0
    assert [sample.stamp.policy_version for sample in arrived.memory] == [3] * 7 + [5] * 7


def test_a_newer_policy_reaches_every_worker_and_only_the_newest(server, trainer):
    actor = Policy()
    with worker_line(server, "a") as a, worker_line(server, "b") as b:
        for scale in (1.0, 2.0, 3.0):
            torch.nn.init.constant_(actor.layer.weight, scale)
            trainer.broadcast_model(actor)
            until(lambda: server.report()["policy_version"] >= 1)
        for line in (a, b):
            mine = Policy()
            count = version = 0
            while not torch.equal(mine.layer.weight, actor.layer.weight):
                received = line.receive(5.0, mine)
                count, version = count + received.n_policies, received.version
            assert count <= version <= 3
        assert a.receive(0.0, Policy()).n_policies == 0


def test_a_worker_that_comes_later_gets_the_policy(server, trainer):
    actor = Policy()
    trainer.broadcast_model(actor)
    until(lambda: server.report()["policy_version"] == 1)
    with worker_line(server, "late") as late:
        mine = Policy()
        assert late.receive(5.0, mine)[::2] == (1, 1)
        assert torch.equal(mine.layer.weight, actor.layer.weight)


def memory_of_policy(version: int) -> ReplayMemory:
    memory = ReplayMemory(memory_size=1000, seed=0)
    memory.append(buffer_of(of_policy(version, numbered("a", 0, 14).memory)))
    return memory


def test_a_number_that_no_trainer_gave_does_not_count(server, trainer):
    trainer.attach(memory_of_policy((1 << 62) - 1))
    trainer.broadcast_model(Policy())
    until(lambda: server.report()["policy_version"] == 1)


def test_policies_are_numbered_on_by_the_memory_and_over_a_server_that_begins_anew():
    dialer = Loopback()
    with TrainerLine(dialer) as trainer:
        trainer.attach(memory_of_policy(44))
        for number in (45, 46):
            with Server(port=None) as server, worker_line(server, "b") as b:
                background.run(dialer.start(server._hub.serve))
                if number == 45:
                    trainer.broadcast_model(Policy())
                assert b.receive(5.0, Policy()).version == number
                trainer.broadcast_model(Policy())
                until(lambda: server.report()["policy_version"] == number + 1)  # noqa: B023
                background.run(dialer.stop())


def test_a_policy_that_is_dropped_changes_nothing(server, trainer):
    trainer.broadcast_model(Policy())
    with worker_line(server, "a") as a:
        received = a.receive(5.0, None)
        assert (received.n_policies, received.actor) == (1, None)


def test_no_line_carries_a_pickled_policy(trainer):
    class Plain(ActorModule):
        def act(self, obs, test=False):
            return obs

    with pytest.raises(PolicyError, match="Plain would be pickled, and no line carries pickles"):
        trainer.broadcast_model(Plain(None, None))


def test_a_policy_that_is_too_large_is_refused_at_once(trainer, monkeypatch):
    monkeypatch.setattr("tmrl.networking.trainer_line.MAX_PARCEL_BYTES", 10)
    with pytest.raises(PolicyError, match="a policy must be at most 10 bytes, got"):
        trainer.broadcast_model(Policy())
