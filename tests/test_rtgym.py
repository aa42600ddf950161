"""A real-time environment of rtgym, through the worker into a memory."""

from collections import deque
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
import rtgym
from gymnasium import spaces

from tmrl.actor import ActorModule
from tmrl.errors import HistoryError
from tmrl.memory import ActionBuffer, History, Latest, NStep, ReplayMemory, Sequence, Stacked
from tmrl.networking import RolloutWorker


class Clock(rtgym.RealTimeGymInterface):
    """Observes the number of time steps and the last control that was applied."""

    def __init__(self) -> None:
        self.count = 0
        self.control = np.zeros(1, np.float32)

    def send_control(self, control: Any) -> None:
        self.control = np.array(control, np.float32)

    def reset(self, seed: Any = None, options: Any = None) -> Any:
        self.count = 0
        return [np.array([0.0], np.float32), self.control], {}

    def get_obs_rew_terminated_info(self) -> Any:
        self.count += 1
        return [np.array([self.count], np.float32), self.control], 1.0, False, {}

    def get_observation_space(self) -> Any:
        return spaces.Tuple([spaces.Box(-1e3, 1e3, (1,)), spaces.Box(-1e3, 1e3, (1,))])

    def get_action_space(self) -> Any:
        return spaces.Box(-1e3, 1e3, (1,))

    def get_default_action(self) -> Any:
        return np.array([-5.0], np.float32)


class Counter(ActorModule):
    """Acts with the number of times it was asked."""

    calls = 0

    def act(self, obs: Any, test: bool = False) -> Any:
        self.calls += 1
        return np.array([self.calls], np.float32)


def config_of(interface: Any, **changes: Any) -> dict[str, Any]:
    return {
        **rtgym.DEFAULT_CONFIG_DICT,
        "interface": interface,
        "time_step_duration": 0.005,
        "start_obs_capture": 0.005,
        # A loaded machine may be late by any number of time steps.
        "time_step_timeout_factor": 1e6,
        "act_buf_len": 2,
        **changes,
    }


def running(config: dict[str, Any], actor: Any, **kwargs: Any) -> Iterator[RolloutWorker]:
    def make_env() -> Any:
        return gymnasium.make("real-time-gym-v1", config=config, disable_env_checker=True)

    with RolloutWorker(make_env, actor, standalone=True, crc_debug=True, **kwargs) as worker:
        yield worker
        worker.env.unwrapped.stop()


@pytest.fixture
def worker() -> Iterator[RolloutWorker]:
    yield from running(config_of(Clock, ep_max_length=4, benchmark=True), Counter)


def test_a_real_time_episode_holds_the_default_action_and_the_action_history(worker: RolloutWorker) -> None:
    worker.collect_train_episode()
    acts = [sample[0].tolist() for sample in worker.buffer.memory]
    histories = [[act.item() for act in sample[1][2:]] for sample in worker.buffer.memory]
    assert acts == [[-5.0], [1.0], [2.0], [3.0], [4.0]]
    assert histories == [[-5, -5], [-5, 1], [1, 2], [2, 3], [3, 4]]
    assert [sample[4] for sample in worker.buffer.memory] == [False] * 4 + [True]


def test_real_time_transitions_reach_the_memory_bit_by_bit(worker: RolloutWorker) -> None:
    """B01, B39: two episodes, checked against the checksums of the worker."""
    worker.collect_steps(8)
    memory = ReplayMemory(batch_size=32, crc_debug=True, seed=0)
    memory.append(worker.buffer)
    assert len(memory) == 8
    batch = memory.sample()
    newest_action = batch.new_obs[3]
    assert (newest_action == batch.new_act).all()
    assert (batch.new_obs[0] > batch.prev_obs[0]).all()


def test_the_benchmark_of_rtgym_comes_through(worker: RolloutWorker) -> None:
    assert "time_step_duration" in worker.run_env_benchmark(nb_steps=6, verbose=False)


class Lidar(Clock):
    """Observes (speed[1], lidar[4, 19]), and acts with three numbers, as racing cars do."""

    def __init__(self) -> None:
        super().__init__()
        self.scans: deque[Any] = deque(maxlen=4)

    def scan(self) -> Any:
        return np.random.default_rng(self.count).random(19, np.float32)

    def reset(self, seed: Any = None, options: Any = None) -> Any:
        self.count += 100
        self.scans.extend([self.scan()] * 4)
        return self.observation(), {}

    def get_obs_rew_terminated_info(self) -> Any:
        self.count += 1
        self.scans.append(self.scan())
        return self.observation(), 1.0, False, {}

    def observation(self) -> Any:
        return [np.array([self.count], np.float32), np.array(self.scans)]

    def get_observation_space(self) -> Any:
        return spaces.Tuple([spaces.Box(0, 1e3, (1,)), spaces.Box(0, 1, (4, 19))])

    def get_action_space(self) -> Any:
        return spaces.Box(-1e3, 1e3, (3,))

    def get_default_action(self) -> Any:
        return np.array([0.0, 0.0, -5.0], np.float32)


class ThreeNumbers(Counter):
    """Acts with how often it was asked, three times over."""

    def act(self, obs: Any, test: bool = False) -> Any:
        return np.repeat(super().act(obs, test), 3)


LIDAR = History((Latest(), Stacked(4), ActionBuffer(2)))


@pytest.mark.parametrize("window", [None, NStep(3, 0.9), Sequence(4)])
def test_lidar_histories_are_rebuilt_bit_by_bit(window: Any) -> None:
    """Each transition against the checksums of the worker, over episode starts and the end of the ring."""
    memory = ReplayMemory(memory_size=15, crc_debug=True, seed=0, window=window, history=LIDAR)
    for worker in running(config_of(Lidar, ep_max_length=6), ThreeNumbers, history=LIDAR):
        for _ in range(4):
            worker.collect_train_episode()
            memory.append(worker.buffer)
            worker.buffer.clear()
            batch = memory.take(range(len(memory)))
    assert memory.stats().crc_checked >= 3 * 6
    speed, lidar, *actions = batch.prev_obs
    assert (speed.shape[-1], lidar.shape[-2:], [act.shape[-1] for act in actions]) == (1, (4, 19), [3, 3])
    assert memory.schema is not None
    assert [leaf.shape for leaf in memory.schema.obs.leaves] == [(1,), (19,)]


def test_a_buffer_of_actions_that_outlives_a_reset_is_refused() -> None:
    config = config_of(Lidar, ep_max_length=6, reset_act_buf=False)
    for worker in running(config, ThreeNumbers, history=LIDAR):
        worker.collect_train_episode()
        with pytest.raises(HistoryError, match=r"obs/2 of step 7 .* as rtgym does with reset_act_buf=True"):
            worker.collect_train_episode()
