"""Sample sources in one process."""

import types
from typing import Any

import pytest
from gymnasium.vector import AutoresetMode

from dummies import CountingActor, CountingEnv
from lanes import Linear, PlannedEnv, assert_same_as_single, vector_worker
from makers import buffer_of, of_policy, plain_episode, stamped
from tmrl.memory import ReplayMemory
from tmrl.networking import RolloutWorker
from tmrl.training import InProcessLine, WorkerSource
from tmrl.training.source import attach


def make_source(length: int = 3, **options: Any) -> WorkerSource:
    return WorkerSource(
        RolloutWorker(lambda: CountingEnv(length), CountingActor, standalone=True, worker_id="w"), **options
    )


def test_a_retrieval_collects_steps_and_goes_on_where_the_last_one_ended() -> None:
    source = make_source(length=3, steps_per_retrieval=2)
    buffers = [source.retrieve_buffer() for _ in range(3)]
    steps = [[s.stamp.episode_step for s in buffer.memory] for buffer in buffers]
    assert steps == [[0, 1, 2], [3, 0, 1], [2, 3]]
    assert [len(buffer.episodes) for buffer in buffers] == [0, 1, 1]


def test_the_worker_gets_a_copy_of_the_policy() -> None:
    """B39: the agent goes on changing its own."""
    source = make_source()
    actor = CountingActor(None, None)
    source.broadcast_model(actor)
    actor.calls = 5
    assert source.worker.actor is not actor
    assert (source.worker.actor.calls, source.worker.policy_version) == (0, 1)


def test_policies_are_numbered_on_by_what_the_memory_holds() -> None:
    memory = ReplayMemory(memory_size=100, seed=0)
    samples = stamped(plain_episode(3))
    memory.append(buffer_of(of_policy(7, samples)))
    source = make_source()
    for version in (8, 9):
        attach(types.SimpleNamespace(source=source), memory)
        source.broadcast_model(CountingActor(None, None))
        assert source.worker.policy_version == version


@pytest.mark.parametrize(
    ("options", "tests"),
    [
        ({}, "ttttttt"),
        ({"test_interval_episodes": 2}, "ttTttTtt"),
        ({"test_interval_episodes": 3, "test_episodes": 2}, "tttTTttt"),
        # Due in the middle of an episode, the test waits for its end.
        ({"test_interval_steps": 4}, "ttTtTtTttTtTt"),
        ({"test_interval_steps": 6, "test_interval_episodes": 4}, "ttTttTttT"),
    ],
)
def test_tests_come_between_training_episodes_when_they_are_due(options: Any, tests: str) -> None:
    source = make_source(length=3, steps_per_retrieval=1, **options)
    records = []
    while len(records) < len(tests):
        records += source.retrieve_buffer().episodes
    assert "".join("T" if record.is_test else "t" for record in records)[: len(tests)] == tests


def test_testing_never_interrupts_a_training_episode() -> None:
    """B09: every episode collected is whole."""
    source = make_source(length=3, steps_per_retrieval=12, test_interval_steps=1)
    samples = source.retrieve_buffer().memory
    assert [s.stamp.episode_step for s in samples] == [0, 1, 2, 3] * 4


@pytest.mark.parametrize("steps", [6, 5])
def test_a_retrieval_of_many_environments_is_whole_steps_of_all(steps: int) -> None:
    worker = vector_worker([(3,), (-2,), (1,)], AutoresetMode.DISABLED)
    source = WorkerSource(worker, steps_per_retrieval=steps)
    buffer = source.retrieve_buffer()
    assert sum(sample.stamp.episode_step > 0 for sample in buffer.memory) == 6
    assert [record.worker for record in buffer.episodes] == ["w/2", "w/1", "w/2"]
    source.broadcast_model(Linear(None, None))
    assert worker.policy_version == 1


@pytest.mark.parametrize(
    ("options", "tests"),
    [
        ({}, "ttttttt"),
        # Three steps a call; episodes are open when the test is due.
        ({"test_interval_steps": 6}, "tttTttttTttttT"),
        ({"test_interval_episodes": 3, "test_episodes": 2}, "tttTTttttTT"),
    ],
)
def test_tests_beside_many_environments_come_when_they_are_due(options: Any, tests: str) -> None:
    """B09: and cut no episode of theirs."""
    plans = [(3,), (-2,), (1,)]
    worker = vector_worker(plans, AutoresetMode.DISABLED, test_env_cls=lambda: PlannedEnv((4,)))
    source = WorkerSource(worker, steps_per_retrieval=3, **options)
    buffer = source.retrieve_buffer()
    while len(buffer.episodes) < len(tests):
        buffer += source.retrieve_buffer()
    assert "".join("T" if record.is_test else "t" for record in buffer.episodes)[: len(tests)] == tests
    worker.buffer = buffer
    assert_same_as_single(worker, plans)


def test_closing_a_source_closes_its_worker() -> None:
    with make_source() as source:
        pass
    assert source.worker.env.is_closed


def test_a_worker_that_sends_elsewhere_is_refused() -> None:
    worker = RolloutWorker(CountingEnv, CountingActor, sink=InProcessLine())
    with pytest.raises(
        ValueError, match="needs a worker without a sink, got one that sends to the trainer in"
    ):
        WorkerSource(worker)


def test_a_retrieval_of_no_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="steps_per_retrieval must be at least 1, got 0"):
        make_source(steps_per_retrieval=0)


def test_a_line_holds_no_more_than_its_limit() -> None:
    line = InProcessLine(maxlen=3)
    worker = RolloutWorker(CountingEnv, CountingActor, sink=line)
    worker.run(nb_episodes=1)
    assert [s.stamp.step for s in line.retrieve_buffer().memory] == [2, 3, 4]
