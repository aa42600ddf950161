"""What all workers do alike: loops in step with a trainer, and how they end."""

from typing import Any

import pytest
from gymnasium.vector import AutoresetMode

from dummies import AnsweringLine, CountingActor, CountingEnv
from lanes import Linear, PlannedEnv, assert_same, lanes_of, single_samples, vector_worker
from tmrl.errors import StalledError
from tmrl.networking import RolloutWorker, VectorWorker
from tmrl.sink import Received

PLANS = [(3,), (-5, 2)]


def make_worker(env_cls: Any, **options: Any) -> RolloutWorker:
    options = {"standalone": "sink" not in options, "wait_limit_s": 0.0} | options
    return RolloutWorker(env_cls, CountingActor, worker_id="w", **options)


def make_vector_worker(**options: Any) -> VectorWorker:
    options = {"standalone": False, "wait_limit_s": 0.0, "mode": AutoresetMode.DISABLED} | options
    return vector_worker(PLANS, **options)


# One environment.


def test_a_synchronous_run_sends_before_it_waits() -> None:
    line = AnsweringLine(policies=[4, 4, 4])
    worker = make_worker(lambda: CountingEnv(length=2), sink=line, wait_limit_s=0.0)
    worker.run_synchronous(nb_steps=6, initial_steps=2, max_steps_per_update=1)
    assert [len(samples) for samples in line.sent] == [3, 3, 3]


def test_a_synchronous_run_waits_for_a_policy_when_it_is_ahead_of_the_trainer() -> None:
    line = AnsweringLine(policies=[3])
    worker = make_worker(lambda: CountingEnv(length=2), sink=line, wait_limit_s=0.0)
    with pytest.raises(StalledError, match="'w' has awaited a policy from the trainer in this process since"):
        worker.run_synchronous(nb_steps=9, max_steps_per_update=1)
    # Four policies (the first counts) cover the initial episode and one more; resets count.
    assert [len(samples) for samples in line.sent] == [3, 3, 3]


def test_a_synchronous_run_can_wait_after_any_step() -> None:
    line = AnsweringLine(policies=[1, 1, 1, 1, 1, 1])
    worker = make_worker(lambda: CountingEnv(length=9), sink=line, wait_limit_s=0.0)
    worker.run_synchronous(nb_steps=8, initial_steps=3, max_steps_per_update=2, end_episodes=False)
    # A policy more, two samples more; the episode goes on over the cuts, and its end is one too.
    assert [len(samples) for samples in line.sent] == [3, 2, 2, 2, 1, 1]
    assert [s.stamp.episode_step for samples in line.sent for s in samples] == [*range(10), 0]


def test_a_synchronous_run_takes_the_policies_that_came_without_waiting() -> None:
    worker = make_worker(lambda: CountingEnv(length=2), sink=AnsweringLine(policies=[1, 2]))
    worker.run_synchronous(nb_steps=1)
    assert worker.policy_version == 3


def test_a_synchronous_run_tests_between_episodes_only() -> None:
    worker = make_worker(lambda: CountingEnv(length=2))
    worker.run_synchronous(test_episode_interval=2, nb_steps=9, initial_steps=2)
    assert [r.is_test for r in worker.buffer.episodes] == [False, True, False, False, True, False]


# Several environments.


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_synchronous_run_counts_the_samples_of_all_environments(mode: Any) -> None:
    line = AnsweringLine(policies=[2, 1, 1, 1, 1, 1, 1, 1], actor_cls=Linear)
    worker = make_vector_worker(sink=line, mode=mode)
    worker.run_synchronous(nb_steps=12, initial_steps=5, max_steps_per_update=3, end_episodes=False)
    # Two resets and two steps, then two steps more; from then on as many as were asked for, in whole steps.
    lengths = [len(samples) for samples in line.sent]
    assert lengths[0] == 6
    assert sum(lengths[1:]) >= 12 > sum(lengths[1:-1])
    lanes = lanes_of([sample for samples in line.sent for sample in samples])
    for i in range(2):
        samples = lanes[f"w/{i}"]
        expected = single_samples(i, len(samples), PLANS)
        assert [s.stamp[2:5] for s in samples] == [s.stamp[2:5] for s in expected]
        assert_same([_unversioned(s) for s in samples], [_unversioned(s) for s in expected])


def _unversioned(sample: Any) -> Any:
    return type(sample)(tuple(sample), sample.stamp._replace(policy_version=0))


def test_a_synchronous_run_of_several_environments_waits_when_it_is_ahead() -> None:
    line = AnsweringLine(policies=[1])
    worker = make_vector_worker(sink=line)
    with pytest.raises(StalledError, match="'w' has awaited a policy from the trainer in this process since"):
        worker.run_synchronous(nb_steps=99, initial_steps=4, max_steps_per_update=3, end_episodes=False)
    # The first policy counts, so there are two, for six samples: two steps of both, and one with a reset.
    assert [len(samples) for samples in line.sent] == [4, 4, 3]


def test_a_synchronous_run_of_several_environments_may_wait_where_any_episode_ends() -> None:
    line = AnsweringLine()
    worker = make_vector_worker(sink=line)
    worker.run_synchronous(nb_steps=10)
    # After three steps of both, after two more, and after one more, each with the resets before it.
    assert [len(samples) for samples in line.sent] == [8, 5, 3, 3]


def test_a_synchronous_run_of_several_environments_tests_beside_them() -> None:
    worker = make_vector_worker(standalone=True, test_env_cls=lambda: PlannedEnv((4,)))
    worker.run_synchronous(test_episode_interval=2, nb_steps=30)
    lengths = [record.length for record in worker.buffer.episodes if record.is_test]
    assert lengths == [4] * len(lengths)
    assert [record.is_test for record in worker.buffer.episodes[:6]] == [
        False,
        True,
        False,
        False,
        True,
        False,
    ]


# A trainer that waits itself.


class Repeating:
    """A line on which the policy comes again and again, after `fresh` new ones."""

    peer = "the trainer"

    def __init__(self, fresh: int = 0, n_repeats: int = 999) -> None:
        self.fresh = fresh
        self.n_repeats = n_repeats
        self.sent: list[int] = []

    def send(self, buffer: Any) -> None:
        self.sent.append(len(buffer))

    def receive(self, timeout_s: float, actor: Any) -> Received:
        if self.fresh:
            self.fresh -= 1
            return Received(1, actor, 1)
        self.n_repeats -= 1
        return Received(1, actor, 1, is_again=True) if self.n_repeats >= 0 else Received(0, None, 1)


def test_a_worker_that_waits_goes_on_when_its_policy_comes_again() -> None:
    """However many policies it would have to await by the numbers: here seven for an episode."""
    line = Repeating()
    worker = make_worker(lambda: CountingEnv(length=13), sink=line)
    worker.run_synchronous(nb_steps=40, initial_steps=40, max_steps_per_update=2)
    assert line.sent == [14] * 6


def test_a_worker_that_need_not_wait_makes_nothing_of_a_policy_that_comes_again() -> None:
    line = Repeating(fresh=1, n_repeats=5)
    worker = make_worker(lambda: CountingEnv(length=99), sink=line)
    with pytest.raises(StalledError):
        worker.run_synchronous(nb_steps=999, max_steps_per_update=10, end_episodes=False)
    # One, then ten for each of two policies. Of the five one came too early; by the other four it went on
    # twice: each is asked for twice, before the wait and in it.
    assert line.sent == [1, 10, 10, 10, 10]


# The end.


@pytest.mark.parametrize("make", [lambda **o: make_worker(CountingEnv, **o), make_vector_worker])
def test_closing_hands_over_what_is_left_and_leaves_the_line_open(make: Any) -> None:
    line = AnsweringLine()
    with make(sink=line) as worker:
        n_samples = worker.collect_steps(2)
        assert n_samples == 3 * worker.num_envs
    worker.close()
    assert [len(samples) for samples in line.sent] == [n_samples]
    assert len(line.retrieve_buffer()) == n_samples


def test_closing_closes_the_environment_also_where_the_line_fails() -> None:
    class Broken(AnsweringLine):
        def send(self, buffer: Any) -> None:
            raise StalledError("no room")

    worker = make_worker(CountingEnv, sink=Broken())
    worker.collect_steps(1)
    with pytest.raises(StalledError, match="no room"):
        worker.close()
    assert worker.env.is_closed
