"""Stacked frames: what a policy sees, while samples hold single observations."""

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation, TransformObservation

from dummies import CountingActor, CountingEnv
from tmrl.frames import Frames, stacked_space
from tmrl.networking import RolloutWorker


def worker_of(env: Any, **options: Any) -> RolloutWorker:
    return RolloutWorker(lambda: env, CountingActor, standalone=True, **options)


def test_a_policy_sees_what_gymnasiums_wrapper_would_show_and_samples_stay_single() -> None:
    """Two episodes, the first observation of each standing in for those before it."""
    worker = worker_of(CountingEnv(length=6), frame_stack=4)
    for _ in range(2):
        worker.collect_train_episode()
    env = CountingEnv(length=6)
    wrapped = FrameStackObservation(TransformObservation(env, np.copy, env.observation_space), 4)
    expected = []
    for _ in range(2):
        obs, _ = wrapped.reset()
        for _ in range(6):
            expected.append(np.array(obs))
            obs, *_ = wrapped.step(np.zeros(1, np.float32))
    assert np.array_equal(worker.actor.seen, expected)
    assert [sample[1].shape for sample in worker.buffer.memory] == [(2,)] * 14
    assert [sample[1][1] for sample in worker.buffer.memory] == [*range(7)] * 2


def test_a_policy_that_comes_within_an_episode_sees_the_frames_before_it() -> None:
    worker = worker_of(CountingEnv(length=9), frame_stack=3)
    worker.collect_steps(4)
    worker.actor = CountingActor(worker.actor.observation_space, worker.env.action_space)
    worker.collect_steps(1)
    assert worker.actor.seen[0][:, 1].tolist() == [2, 3, 4]


def test_a_test_between_two_episodes_leaves_no_frames_behind() -> None:
    worker = worker_of(CountingEnv(length=3), frame_stack=3)
    worker.run_episode()
    worker.collect_steps(1)
    assert worker.actor.seen[-1].tolist() == [[1, 0]] * 3


def test_the_policy_is_made_for_the_space_that_it_sees() -> None:
    worker = worker_of(CountingEnv(), frame_stack=4)
    assert worker.actor.observation_space.shape == (4, 2)
    assert worker_of(CountingEnv()).actor.observation_space == CountingEnv.observation_space


def test_nested_observations_are_stacked_leaf_by_leaf() -> None:
    space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Tuple([spaces.Box(0, 9, (), np.int64)])})
    frames = Frames(3)
    frames.begin({"a": np.zeros(2, np.float32), "b": (0,)})
    frames.add({"a": np.ones(2, np.float32), "b": (1,)})
    stacked = frames.seen(None)
    assert stacked["a"].tolist() == [[0, 0], [0, 0], [1, 1]]
    assert stacked["b"][0].tolist() == [0, 0, 1]
    assert stacked_space(space, 3).contains(stacked)
    assert stacked_space(space, 1) is space


def test_preprocessed_observations_are_stacked() -> None:
    worker = worker_of(CountingEnv(), frame_stack=2, obs_preprocessor=lambda obs: obs * 10)
    worker.collect_steps(2)
    assert worker.actor.seen[1][:, 1].tolist() == [0, 10]


def test_checksums_are_those_of_single_observations() -> None:
    checksums = []
    for frame_stack in (1, 4):
        env = CountingEnv()
        worker = worker_of(env, frame_stack=frame_stack, crc_debug=True, worker_id="w")
        worker.collect_train_episode()
        checksums.append([sample[-1]["crc"]["fields"]["obs"] for sample in worker.buffer.memory])
    assert checksums[0] == checksums[1]


def test_less_than_one_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="frame_stack must be at least 1, got 0"):
        worker_of(CountingEnv(), frame_stack=0)


def test_frames_are_not_overwritten_by_an_environment_that_reuses_its_arrays() -> None:
    obs, frames = np.zeros(1), Frames(2)
    frames.begin(obs)
    obs += 1
    frames.add(obs)
    obs += 1
    first = frames.seen(None)
    assert first.tolist() == [[0], [1]]
    frames.add(obs)
    assert first.tolist() == [[0], [1]]
