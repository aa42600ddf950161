"""Many environments in one worker: each lane against a RolloutWorker of the same environment."""

import itertools
import logging
from collections import defaultdict
from typing import Any

import gymnasium
import numpy as np
import optree
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorWrapper
from gymnasium.wrappers import TimeLimit
from hypothesis import given, settings
from hypothesis import strategies as st

from dummies import CountingActor, CountingEnv
from lanes import (
    MODES,
    PLANS,
    Linear,
    NestedEnv,
    PlannedEnv,
    assert_same,
    assert_same_as_single,
    lanes_of,
    single_samples,
    vector_worker,
)
from tmrl.actor import ActorModule
from tmrl.memory import FrameStack, History, Latest, ReplayMemory, Stacked
from tmrl.networking import VectorWorker
from tmrl.training import InProcessLine

# The same samples as of single environments.


@pytest.mark.parametrize("copy", [True, False])
@pytest.mark.parametrize("env", [PlannedEnv, NestedEnv])
@pytest.mark.parametrize("mode", MODES)
def test_each_lane_collects_what_a_worker_of_its_environment_would(mode: Any, env: Any, copy: bool) -> None:
    """B03, B07, B08: final observations and infos are there, ignored actions are not, in every mode."""
    with vector_worker(mode=mode, env=env, copy=copy) as worker:
        worker.collect_steps(30)
    assert_same_as_single(worker, env=env)
    assert len(worker.buffer) >= 4 * 30


@pytest.mark.parametrize("mode", MODES)
def test_every_step_of_the_environments_is_collected_but_ignored_ones(mode: Any) -> None:
    """B05, B08: nothing is invented, and nothing is lost; only NEXT_STEP gives up a step for each reset."""
    with vector_worker(mode=mode) as worker:
        worker.collect_steps(20)
        acts = [env.unwrapped.seen for env in worker.env.envs]
    for i, samples in enumerate(lanes_of(worker.buffer.memory).values()):
        steps = [sample for sample in samples if sample.stamp.episode_step]
        resets = len(samples) - len(steps)
        assert np.array_equal([sample[0] for sample in steps], acts[i])
        # The first reset takes no step.
        assert len(steps) == 20 - (resets - 1) * (mode is AutoresetMode.NEXT_STEP)


@pytest.mark.parametrize("mode", MODES)
def test_it_makes_no_difference_in_how_many_calls_steps_are_collected(mode: Any) -> None:
    whole, parts = vector_worker(mode=mode), vector_worker(mode=mode)
    whole.collect_steps(12)
    for n in (1, 0, 4, 7):
        parts.collect_steps(n)
    assert_same(parts.buffer.memory, whole.buffer.memory)


@pytest.mark.parametrize("mode", MODES)
def test_environments_in_processes_of_their_own_collect_the_same(mode: Any) -> None:
    """B03: AsyncVectorEnv, with observations in shared memory."""
    with vector_worker(PLANS[:2], mode, vector_cls=AsyncVectorEnv, copy=False) as worker:
        worker.collect_steps(12)
    assert_same_as_single(worker, PLANS[:2])


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=25, deadline=None)
@given(
    plans=st.lists(
        st.lists(st.integers(1, 4) | st.integers(-4, -1), min_size=1, max_size=4), min_size=1, max_size=4
    ),
    steps=st.integers(1, 15),
    limit=st.none() | st.integers(1, 4),
)
def test_lanes_of_any_episodes_are_those_of_single_environments(
    mode: Any, plans: Any, steps: int, limit: int | None
) -> None:
    """B03, B08, B10: property over lengths, ends and limits, checksums included."""
    options: dict[str, Any] = {"crc_debug": True} | ({"max_samples_per_episode": limit} if limit else {})
    with vector_worker(plans, mode, **options) as worker:
        worker.collect_steps(steps)
    assert_same_as_single(worker, plans, **options)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "options",
    [
        {"frame_stack": 3},
        {"obs_preprocessor": lambda obs: obs.astype(np.float64) * 10},
        {"sample_compressor": lambda act, obs, *others: (act, obs[:2], *others)},
        {"max_samples_per_episode": 2},
        {"source": "demo"},
        {"crc_debug": True, "crc_samples": True},
        {"crc_debug": True, "frame_stack": 2, "max_samples_per_episode": 3},
    ],
)
def test_options_work_lane_by_lane(mode: Any, options: Any) -> None:
    with vector_worker(mode=mode, **options) as worker:
        worker.collect_steps(15)
    assert_same_as_single(worker, **options)


@pytest.mark.parametrize("mode", MODES)
def test_histories_are_proven_and_left_out_lane_by_lane(mode: Any) -> None:
    class Stack(PlannedEnv):
        observation_space = spaces.Box(-np.inf, np.inf, (3, 4), np.float32)

        def observation(self) -> Any:
            frame = self.number()
            self.frames = [frame] * 3 if self.step_number == 0 else [*self.frames[1:], frame]
            return np.stack(self.frames)

    options: dict[str, Any] = {"history": History(Stacked(3)), "crc_debug": True}
    with vector_worker(mode=mode, env=Stack, **options) as worker:
        worker.collect_steps(15)
    assert_same_as_single(worker, env=Stack, **options)
    memory = ReplayMemory(crc_debug=True, seed=0, history=History(Stacked(3)))
    memory.append(worker.buffer)
    memory.take(range(len(memory)))
    assert memory.stats().crc_checked == len(memory) > 40


def test_environments_that_reuse_their_arrays_are_copied() -> None:
    """B39: observations and infos, where the vector environment hands out its own arrays too."""
    for mode in (AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED):
        env = SyncVectorEnv([lambda: CountingEnv(3)] * 2, copy=False, autoreset_mode=mode)
        with VectorWorker(lambda env=env: env, CountingActor, standalone=True) as worker:
            worker.collect_steps(9)
        for samples in lanes_of(worker.buffer.memory).values():
            steps = [(s.stamp.episode, s.stamp.episode_step) for s in samples]
            assert [tuple(s[1].tolist()) for s in samples] == steps


# Into the memory.


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("window", [None, FrameStack(3)])
def test_no_transition_that_a_memory_draws_is_made_up(mode: Any, window: Any) -> None:
    """B03, B08, B10: every transition is one step of one episode of one lane, and each is drawn."""
    memory = ReplayMemory(batch_size=64, crc_debug=True, seed=0, window=window)
    with vector_worker(mode=mode, crc_debug=True) as worker:
        line = worker.sink = InProcessLine()
        for n in (1, 3, 11, 2, 8):
            worker.collect_steps(n)
            worker.send_and_clear_buffer()
            memory.append(line.retrieve_buffer())
    batch = memory.take(range(len(memory)))
    newest = (lambda obs: obs[:, -1]) if window else (lambda obs: obs)
    before, after = newest(batch.prev_obs), newest(batch.new_obs)
    assert (before[:, :2] == after[:, :2]).all()
    assert (before[:, 2] + 1 == after[:, 2]).all()
    drawn = {tuple(row) for row in after[:, :3].tolist()}
    expected = set()
    for i, plan in enumerate(PLANS):
        n = memory.stats().workers[f"w/{i}"].appended
        lengths = itertools.cycle(map(abs, plan))
        rows = [(10.0 + i, e, s) for e in range(n) for s in range(next(lengths) + 1)][:n]
        expected |= {row for row in rows if row[2]}
    assert drawn == expected
    assert len(memory) == len(expected)
    assert (memory.stats().gaps, memory.stats().duplicates) == (0, 0)


@pytest.mark.parametrize("mode", MODES)
def test_episodes_are_recorded_by_lane(mode: Any) -> None:
    with vector_worker(mode=mode) as worker:
        worker.collect_steps(12)
    lengths = defaultdict(list)
    for record in worker.buffer.episodes:
        lengths[record.worker].append(record.length)
    for i, plan in enumerate(PLANS):
        cycle = itertools.cycle(map(abs, plan))
        assert lengths[f"w/{i}"] == [next(cycle) for _ in lengths[f"w/{i}"]]
    assert not any(record.is_test for record in worker.buffer.episodes)


# After an error.


class Whole(VectorWrapper):
    """Resets all of its lanes, or none, as environments of arrays do."""

    def __init__(self, env_fns: Any, **options: Any) -> None:
        super().__init__(SyncVectorEnv(env_fns, **options))

    @property
    def unwrapped(self) -> Any:
        return self

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return self.env.reset(seed=seed)


@pytest.mark.parametrize(
    ("mode", "vector_cls"),
    [*((mode, SyncVectorEnv) for mode in MODES), *((mode, Whole) for mode in MODES[:2])],
)
@pytest.mark.parametrize("call", range(1, 40, 2))
def test_an_error_leaves_a_gap_and_no_transition_over_it(mode: Any, vector_cls: Any, call: int) -> None:
    """B09: whatever raises, the samples that follow are those of fresh episodes or of ones that went on."""
    calls = 0

    def failing(*sample: Any) -> tuple[Any, ...]:
        nonlocal calls
        calls += 1
        if calls == call:
            raise RuntimeError("once")
        return sample

    with vector_worker(mode=mode, sample_compressor=failing, vector_cls=vector_cls) as worker:
        with pytest.raises(RuntimeError, match="once"):
            worker.collect_steps(20)
        worker.collect_steps(10)
    for samples in lanes_of(worker.buffer.memory).values():
        # The stamps tell which steps are missing, and no two episodes share a number.
        assert [s.stamp.episode_step for s in samples] == [s[1][2] for s in samples]
        pairs = {(s.stamp.episode, s[1][1].item()) for s in samples}
        assert len(pairs) == len({pair[0] for pair in pairs}) == len({pair[1] for pair in pairs})
        for one, two in itertools.pairwise(samples):
            if one.stamp.episode == two.stamp.episode:
                assert two[1][2] - one[1][2] == two.stamp.step - one.stamp.step


def test_an_environment_of_arrays_hands_over_the_ends_of_its_episodes() -> None:
    """B03: CartPole; what ends an episode is a pole that has fallen."""
    options: dict[str, Any] = {"standalone": True, "worker_id": "w", "seed": 0}
    with VectorWorker(make_cart_poles, Left, **options) as worker:
        worker.collect_steps(30)
    ends = [sample for sample in worker.buffer.memory if sample[3]]
    assert len(ends) >= 4
    assert all(abs(end[1][2]) > 0.2095 for end in ends)


class Left(ActorModule):
    def act(self, obs: Any, test: bool = False) -> Any:
        return 0


def make_cart_poles() -> Any:
    return gymnasium.make_vec("CartPole-v1", num_envs=2, vectorization_mode="vector_entry_point")


# Policies.


class BatchLinear(Linear):
    """Acts for all lanes at once."""

    sizes: list[int]

    def act_batch(self, observations: Any, test: bool = False) -> Any:
        assert isinstance(observations, list)
        self.sizes = [*getattr(self, "sizes", []), len(observations)]
        return [self.act(obs, test=test).copy() for obs in observations]

    def act_(self, obs: Any, test: bool = False) -> Any:
        raise AssertionError("act_batch is there")


@pytest.mark.parametrize("mode", MODES)
def test_a_policy_that_acts_for_many_is_asked_once_a_step(mode: Any) -> None:
    with vector_worker(mode=mode, actor=BatchLinear) as worker:
        worker.collect_steps(10)
    assert_same_as_single(worker)
    # B08: lanes that are reset in a step need no action.
    sizes = worker.actor.sizes  # type: ignore[attr-defined]
    assert len(sizes) == 10
    assert (sizes == [4] * 10) == (mode is not AutoresetMode.NEXT_STEP)


def test_actions_reach_the_environment_as_the_policy_made_them() -> None:
    """B46: no cast to the space's dtype, which a single environment would not get either."""

    class Double(Linear):
        def act(self, obs: Any, test: bool = False) -> Any:
            return np.full(2, 1 / 3)

    with vector_worker(actor=Double) as worker:
        worker.collect_steps(1)
        (act,) = worker.env.envs[0].unwrapped.seen
    assert act.dtype == worker.buffer.memory[-1][0].dtype == np.float64
    assert act.tolist() == [1 / 3, 1 / 3]


def test_the_policy_is_made_for_what_it_sees_of_one_lane() -> None:
    worker = vector_worker(frame_stack=3)
    assert worker.actor.observation_space.shape == (3, 4)
    assert worker.actor.action_space == PlannedEnv.action_space
    assert worker.num_envs == 4


def test_the_newest_policy_is_taken_and_all_are_counted() -> None:
    line = InProcessLine()
    worker = vector_worker(sink=line, standalone=False)
    for _ in range(2):
        line.broadcast_model(Linear(None, None))
    assert worker.update_actor_weights() == 2
    assert worker.policy_version == 2
    worker.collect_steps(1)
    assert [record.policy_version for record in worker.buffer.episodes] == [2]
    line.broadcast_model(Linear(None, None))
    first = worker.actor
    assert worker.ignore_actor_weights() == 1
    assert worker.actor is first


def test_default_actions_are_those_of_each_lane() -> None:
    class RealTime(PlannedEnv):
        def __init__(self, lengths: Any) -> None:
            super().__init__(lengths)
            self.default_action = np.full(2, lengths[0], np.float32)

    with vector_worker(env=lambda plan: TimeLimit(RealTime(plan), 99)) as worker:
        worker.collect_steps(1)
    assert [s[0].tolist() for s in worker.buffer.memory[:4]] == [[3, 3], [-4, -4], [1, 1], [2, 2]]


# Loops.


def test_a_run_sends_whenever_an_episode_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tmrl")
    line = InProcessLine()
    sent = []

    class Line(InProcessLine):
        def send(self, buffer: Any) -> None:
            sent.append(len(buffer.episodes))
            super().send(buffer)
            self.broadcast_model(Linear(None, None))

    line = Line()
    with vector_worker([(3,), (-4,)], AutoresetMode.DISABLED, sink=line, standalone=False) as worker:
        worker.run(nb_episodes=4)
    assert sent == [1] * 4  # after 3, 4, 6 and 8 steps
    assert worker.policy_version == 4
    assert len(line.retrieve_buffer()) == (8 + 3) + (8 + 2)
    assert sum("EpisodeRecord" in message for message in caplog.messages) == 4


def test_an_expert_run_keeps_its_policy() -> None:
    line = InProcessLine()
    worker = vector_worker(sink=line, standalone=False, test_env_cls=PlannedEnv)
    first = worker.actor
    line.broadcast_model(Linear(None, None))
    worker.run(nb_episodes=3, expert=True, test_episode_interval=1)
    assert worker.actor is first
    assert not any(record.is_test for record in line.retrieve_buffer().episodes)


def test_tests_run_in_an_environment_of_their_own_and_cut_no_episode() -> None:
    """B09: the lanes go on where they were."""
    worker = vector_worker(test_env_cls=lambda: PlannedEnv((3,)), mode=AutoresetMode.DISABLED)
    worker.run(nb_episodes=6, test_episode_interval=3)
    assert_same_as_single(worker)
    records = worker.buffer.episodes
    assert [record.worker for record in records if record.is_test] == ["w"] * 2
    assert [record.length for record in records if record.is_test] == [3, 3]
    assert records[0].is_test


def test_tests_use_the_policy_as_it_is_now_and_say_its_version() -> None:
    line = InProcessLine()
    with vector_worker(
        sink=line, standalone=False, actor=CountingActor, test_env_cls=lambda: PlannedEnv((5,))
    ) as worker:
        worker.run_episodes(nb_episodes=2)
        line.broadcast_model(CountingActor(None, None))
        worker.update_actor_weights()
        worker.run_episode(max_samples=2, train=True)
        assert [r.policy_version for r in worker.buffer.episodes] == [0, 0, 1]
        assert [r.length for r in worker.buffer.episodes] == [5, 5, 2]
        assert worker.actor.tests == [False, False]  # type: ignore[attr-defined]


def test_tests_without_an_environment_for_them_are_told_so() -> None:
    with pytest.raises(ValueError, match="tests in a single environment of its own, got none; pass test_env"):
        vector_worker().run_episode()


def test_closing_closes_all_environments() -> None:
    env = SyncVectorEnv([CountingEnv, CountingEnv])
    test_env = CountingEnv()
    with VectorWorker(lambda: env, CountingActor, standalone=True, test_env_cls=lambda: test_env) as worker:
        worker.run_episode()
    assert [one.is_closed for one in (*env.envs, test_env)] == [True] * 3


# What is refused.


def test_a_single_environment_is_refused() -> None:
    with pytest.raises(
        TypeError, match=r"steps a gymnasium\.vector environment, got CountingEnv; use a Rollout"
    ):
        VectorWorker(CountingEnv, CountingActor, standalone=True)


def test_an_environment_that_does_not_say_how_it_is_reset_is_refused() -> None:
    """B03: there is no default that would be right for all."""

    def make() -> Any:
        env = SyncVectorEnv([CountingEnv])
        del env.metadata["autoreset_mode"]
        return env

    with pytest.raises(ValueError, match="must be an AutoresetMode, got None; without it nobody knows"):
        VectorWorker(make, CountingActor, standalone=True)


@pytest.mark.parametrize("vector_cls", [SyncVectorEnv, AsyncVectorEnv])
def test_final_observations_that_the_reset_has_overwritten_are_refused(vector_cls: Any) -> None:
    """B03: Gymnasium hands out the environment's own array, and then resets."""
    env = vector_cls([lambda: CountingEnv(2)], autoreset_mode=AutoresetMode.SAME_STEP)
    with VectorWorker(lambda: env, CountingActor, standalone=True) as worker:
        worker.collect_steps(1)
        with pytest.raises(
            ValueError, match=r"lane 0 of .*VectorEnv.* seems to reuse its arrays, .*DISABLED or NEXT"
        ):
            worker.collect_steps(1)
    assert len(worker.buffer) == 2


def test_a_missing_final_observation_is_told() -> None:
    """B03: some environments put it elsewhere."""

    class Elsewhere(SyncVectorEnv):
        def step(self, actions: Any) -> Any:
            *values, infos = super().step(actions)
            infos.pop("final_obs", None)
            return (*values, infos)

    worker = vector_worker(mode=AutoresetMode.SAME_STEP, vector_cls=Elsewhere)
    with pytest.raises(
        ValueError, match=r"must put its final observation into infos\[\"final_obs\"\], got none"
    ):
        worker.collect_steps(1)


def test_final_observations_may_come_as_a_batch() -> None:
    """B03: as environments of arrays hand them out."""

    class Batched(SyncVectorEnv):
        def step(self, actions: Any) -> Any:
            obs, *values, infos = super().step(actions)
            if "final_obs" in infos:
                rows = [np.zeros(4) if each is None else each for each in infos["final_obs"]]
                infos["final_obs"] = np.stack(rows).astype(np.float32)
            return (obs, *values, infos)

    with vector_worker(mode=AutoresetMode.SAME_STEP, vector_cls=Batched) as worker:
        worker.collect_steps(15)
    assert_same_as_single(worker)


def test_limits_that_an_environment_cannot_keep_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"max_samples_per_episode resets single lanes, which .* cannot, got 9"
    ):
        VectorWorker(make_cart_poles, CountingActor, standalone=True, max_samples_per_episode=9)
    with pytest.raises(ValueError, match="max_samples_per_episode must be at least 1, got 0"):
        vector_worker(max_samples_per_episode=0)


def test_a_worker_with_neither_a_sink_nor_standalone_is_refused() -> None:
    with pytest.raises(ValueError, match="a VectorWorker needs a line to its trainer, got none; pass sink="):
        vector_worker(standalone=False)


def test_two_ways_to_compress_are_refused() -> None:
    with pytest.raises(ValueError, match="compresses one way, got history= and sample_compressor="):
        vector_worker(history=History(Latest()), sample_compressor=lambda *sample: sample)


def test_nests_of_spaces_are_compared_whole() -> None:
    """The comparison of this file sees a changed bit in any leaf."""
    with vector_worker(env=NestedEnv) as worker:
        worker.collect_steps(2)
    samples = worker.buffer.memory
    assert_same(samples, samples)
    changed = [type(s)(optree.tree_map(lambda x: x, tuple(s)), s.stamp) for s in samples]
    changed[0][1]["b"][0][0] += 1
    with pytest.raises(AssertionError):
        assert_same(changed, single_samples(0, 3, env=NestedEnv))
