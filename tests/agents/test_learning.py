"""Agents learn: DQN balances a pole, REDQ swings a pendulum up, each in a few seconds of a fixed seed."""

import itertools
from functools import partial

import gymnasium
import numpy as np
import pytest
import torch

from tmrl.agents import DQNAgent, REDQAgent, SquashedGaussianActor
from tmrl.envs import GenericGymEnv
from tmrl.memory import ReplayMemory
from tmrl.networking import RolloutWorker
from tmrl.training import TorchTrainingOffline, WorkerSource


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Extended(tuple):
    discounts = None


class PlainReturns:
    """The n-step transitions of complete episodes, computed one by one."""

    def __init__(self, n, gamma):
        self.n, self.gamma = n, gamma
        self.columns = [[] for _ in range(6)]
        self.arrays = []

    def add(self, episode):
        """Takes the steps `(obs, act, rew, new_obs, terminated)` of an episode."""
        for i in range(len(episode)):
            steps = episode[i : i + self.n]
            rew = sum(self.gamma**k * step[2] for k, step in enumerate(steps))
            parts = (*steps[0][:2], rew, *steps[-1][3:], self.gamma ** len(steps))
            for column, part in zip(self.columns, parts, strict=True):
                column.append(part)
        dtypes = (np.float32, np.int64, np.float32, np.float32, np.float32, np.float32)
        self.arrays = [np.array(*pair) for pair in zip(self.columns, dtypes, strict=True)]

    def sample(self, rng, batch_size):
        rows = rng.integers(len(self.columns[0]), size=batch_size)
        parts = [torch.from_numpy(array[rows]) for array in self.arrays]
        batch = Extended((*parts[:5], torch.zeros(batch_size)))
        batch.discounts = parts[5]
        return batch


def balance(seed, n_steps=12_000, warm_up=500):
    """Trains DQN on n-step returns of CartPole-v1; the returns of 10 test episodes."""
    torch.manual_seed(seed)
    rng, returns = np.random.default_rng(seed), PlainReturns(n=5, gamma=0.99)
    env = gymnasium.make("CartPole-v1")
    agent = DQNAgent(
        env.observation_space,
        env.action_space,
        hidden=(64, 64),
        lr=1e-3,
        tau=0.02,
        epsilon_updates=3000,
    )
    (obs, _), episode = env.reset(seed=seed), []
    for step in range(n_steps):
        act = agent.get_actor().act_(obs)
        new_obs, rew, terminated, truncated, _ = env.step(act)
        episode.append((obs, act, rew, new_obs, terminated))
        obs = new_obs
        if terminated or truncated:
            returns.add(episode)
            (obs, _), episode = env.reset(), []
        if step >= warm_up:
            agent.train(returns.sample(rng, 128))
    return [test_return(agent.get_actor(), seed=1000 + i) for i in range(10)]


def test_return(actor, seed):
    env = gymnasium.make("CartPole-v1")
    obs, _ = env.reset(seed=seed)
    for length in itertools.count(1):
        obs, _, terminated, truncated, _ = env.step(actor.act_(obs, test=True))
        if terminated or truncated:
            return length
    raise AssertionError


test_return.__test__ = False


def swing_up(seed, n_steps=2000, warm_up=400, updates_per_step=5):
    """Trains REDQ on Pendulum-v1 through worker, memory and loop; the returns of 10 test episodes."""
    torch.manual_seed(seed)
    env_cls = partial(GenericGymEnv, "Pendulum-v1", to_float32=True)
    hidden = (64, 64)
    worker = RolloutWorker(
        env_cls, partial(SquashedGaussianActor, hidden=hidden), standalone=True, seed=seed, worker_id="w"
    )
    with WorkerSource(worker, steps_per_retrieval=10) as source:
        training = TorchTrainingOffline(
            env_cls,
            partial(ReplayMemory, memory_size=10_000, batch_size=64, seed=seed),
            partial(REDQAgent, hidden=hidden, lr=1e-3, n_critics=5, policy_delay=updates_per_step),
            rounds=1,
            steps=(n_steps - warm_up) * updates_per_step,
            start_training=warm_up,
            max_training_steps_per_env_step=updates_per_step,
            update_model_interval=10 * updates_per_step,
            update_buffer_interval=10 * updates_per_step,
            device="cpu",
        )
        training.run_epoch(source)
        assert training.total_samples <= n_steps + 50
        worker.run_episodes(nb_episodes=10)
        return [record.episode_return for record in worker.buffer.episodes if record.is_test]


def test_dqn_balances_a_pole():
    assert np.mean(balance(seed=0)) >= 150


def test_redq_swings_a_pendulum_up_within_2000_steps():
    """SAC with the same networks and one update a step is at -1,200 then."""
    assert np.mean(swing_up(seed=0)) >= -300


@pytest.mark.stress
@pytest.mark.parametrize("seed", range(1, 6))
def test_both_learn_from_other_seeds_too(seed):
    assert np.mean(balance(seed)) >= 150
    assert np.mean(swing_up(seed)) >= -300
