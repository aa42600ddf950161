"""A real-time environment of rtgym, through the worker into a memory."""

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
import rtgym
from gymnasium import spaces

from tmrl.actor import ActorModule
from tmrl.memory import ReplayMemory
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


@pytest.fixture
def worker() -> Iterator[RolloutWorker]:
    config = {
        **rtgym.DEFAULT_CONFIG_DICT,
        "interface": Clock,
        "time_step_duration": 0.005,
        "start_obs_capture": 0.005,
        # A loaded machine may be late by any number of time steps.
        "time_step_timeout_factor": 1e6,
        "ep_max_length": 4,
        "act_buf_len": 2,
        "benchmark": True,
    }

    def make_env() -> Any:
        return gymnasium.make("real-time-gym-v1", config=config, disable_env_checker=True)

    with RolloutWorker(make_env, Counter, standalone=True, crc_debug=True) as worker:
        yield worker
        worker.env.unwrapped.stop()


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
