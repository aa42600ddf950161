"""What a vector environment returns, taken apart lane by lane."""

from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from hypothesis import given
from hypothesis import strategies as st

from lanes import MODES, PLANS, Linear, PlannedEnv, assert_same, lanes_of, vector_worker
from tmrl.actor import ActorModule
from tmrl.envs import GenericGymEnv
from tmrl.networking import RolloutWorker, VectorWorker
from tmrl.vector_env import VectorLanes, lane_info

KINDS: dict[str, Any] = {
    "int": st.integers(-1000, 1000),
    "float": st.floats(width=64),
    "bool": st.booleans(),
    "float32": st.floats(width=32).map(np.float32),
    "text": st.text(max_size=3),
    "list": st.lists(st.integers(), max_size=2),
    "none": st.none(),
    "array": st.lists(st.integers(0, 255), min_size=3, max_size=3).map(lambda x: np.array(x, np.uint8)),
    "picture": st.integers(0, 255).map(lambda x: np.full((2, 2), x, np.uint8)),
    "_private": st.integers(0, 9),
    "final_obs": st.integers(0, 9),
}
flat = st.fixed_dictionaries({}, optional=KINDS)
infos_of_lanes = st.lists(
    st.fixed_dictionaries({}, optional=KINDS | {"nest": flat | st.fixed_dictionaries({"deep": flat})}),
    min_size=1,
    max_size=4,
)


@given(infos_of_lanes)
def test_the_info_of_a_lane_is_that_of_its_environment(infos: Any) -> None:
    """B03: against what Gymnasium makes of any infos, missing keys and nests included."""
    env: Any = VectorEnv()
    env.num_envs = len(infos)
    batch: dict[str, Any] = {}
    for lane, info in enumerate(infos):
        batch = env._add_info(batch, info, lane)
    for lane, info in enumerate(infos):
        assert_same_info(lane_info(batch, lane), info)


def assert_same_info(found: Any, expected: Any) -> None:
    assert set(found) == set(expected)
    for key, value in expected.items():
        if isinstance(value, dict):
            assert_same_info(found[key], value)
        elif isinstance(value, str | list | None):
            assert found[key] == value
            assert type(found[key]) is type(value)
        else:
            assert np.asarray(found[key]).dtype == np.asarray(value).dtype or key == "final_obs"
            assert np.array_equal(found[key], value, equal_nan=np.asarray(value).dtype.kind == "f")


class ByObservation(ActorModule):
    """Left or right, or a torque."""

    def act(self, obs: Any, test: bool = False) -> Any:
        return int(obs[2] > 0) if len(obs) == 4 else obs[1:2] * 2


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_environments_of_gymnasium_give_the_same_samples_as_one_by_one(mode: Any, env_id: str) -> None:
    """B03, B08: falls and time limits."""

    def make() -> Any:
        return GenericGymEnv(env_id, {"max_episode_steps": 12})

    def make_all() -> Any:
        return SyncVectorEnv([make] * 3, autoreset_mode=mode)

    with VectorWorker(make_all, ByObservation, standalone=True, worker_id="w", seed=3) as worker:
        worker.collect_steps(50)
    ends = [sample for sample in worker.buffer.memory if sample[3] or sample[4]]
    assert len(ends) >= 9
    for i, samples in enumerate(lanes_of(worker.buffer.memory).values()):
        options: dict[str, Any] = {"standalone": True, "worker_id": f"w/{i}", "seed": 3 + i}
        with RolloutWorker(make, ByObservation, **options) as single:
            single.collect_steps(50)
        assert_same(samples, single.buffer.memory[: len(samples)])


def test_entries_without_a_mask_are_of_all_lanes() -> None:
    infos = {
        "array": np.arange(3),
        "nest": {"time": np.arange(3) / 2},
        "backend": "gpu",
        "zero": np.zeros(()),
    }
    assert lane_info(infos, 1) == {"array": 1, "nest": {"time": 0.5}, "backend": "gpu", "zero": 0.0}


@pytest.mark.parametrize("mode", MODES)
def test_wrappers_of_vector_environments_leave_the_lanes_as_they_are(mode: Any) -> None:
    """B03: and what they put into the info of an episode's end is in that of its final sample."""

    def make() -> Any:
        env_fns = [lambda plan=plan: PlannedEnv(plan) for plan in PLANS]
        return RecordEpisodeStatistics(SyncVectorEnv(env_fns, autoreset_mode=mode))

    with VectorWorker(make, Linear, standalone=True, worker_id="w", seed=10) as worker:
        worker.collect_steps(12)
    with vector_worker(mode=mode) as plain:
        plain.collect_steps(12)
    # In SAME_STEP, this wrapper writes beside the info of the reset; in DISABLED, it forgets its counts.
    if mode is AutoresetMode.NEXT_STEP:
        ends = [s for s in worker.buffer.memory if s[3] or s[4]]
        assert [s[5]["episode"]["l"] for s in ends] == [s.stamp.episode_step for s in ends]
    for sample in worker.buffer.memory:
        sample[5].pop("episode", None)
    assert_same(worker.buffer.memory, plain.buffer.memory)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fails_at", range(1, 12))
def test_an_environment_that_raises_is_reset_with_all_others(mode: Any, fails_at: int) -> None:
    """B09: some lanes were stepped and some were not; no transition is made of what is left."""
    calls = 0

    class Failing(PlannedEnv):
        def step(self, action: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == fails_at:
                raise OSError("lost the robot")
            return super().step(action)

    with vector_worker(mode=mode, env=Failing) as worker:
        with pytest.raises(OSError, match="lost the robot"):
            worker.collect_steps(9)
        n_before = len(worker.buffer)
        worker.collect_steps(9)
    assert [s.stamp.episode_step for s in worker.buffer.memory[n_before:][:4]] == [0] * 4
    for samples in lanes_of(worker.buffer.memory).values():
        assert [s.stamp.step for s in samples] == list(range(len(samples)))
        assert [s.stamp.episode_step for s in samples] == [s[1][2] for s in samples]
        pairs = {(s.stamp.episode, s[1][1].item()) for s in samples}
        assert len(pairs) == len({pair[0] for pair in pairs}) == len({pair[1] for pair in pairs})


def test_a_policy_that_raises_costs_nothing() -> None:
    class Failing(Linear):
        calls = 0

        def act(self, obs: Any, test: bool = False) -> Any:
            self.calls += 1
            if self.calls == 6:
                raise RuntimeError("no idea")
            return super().act(obs, test)

    with vector_worker(actor=Failing) as worker, vector_worker() as plain:
        with pytest.raises(RuntimeError, match="no idea"):
            worker.collect_steps(9)
        worker.collect_steps(8)
        plain.collect_steps(9)
    assert_same(worker.buffer.memory, plain.buffer.memory)


def test_lanes_that_share_one_array_of_observations_are_told_apart() -> None:
    env = SyncVectorEnv([PlannedEnv] * 2, copy=False, autoreset_mode=AutoresetMode.DISABLED)
    lanes = VectorLanes(env, seed=5)
    assert [start.obs[0] for start in lanes.reset([0, 1]).values()] == [5.0, 6.0]
    assert list(lanes.reset([1])) == [1]
    assert len(lanes) == 2
