"""The worker: what it collects, how it stamps, what it sends and awaits."""

import logging
import threading
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import Autoreset

import tmrl.worker
from dummies import AnsweringLine, CountingActor, CountingEnv
from tmrl.actor import ActorModule
from tmrl.integrity import check_transition, nest_crcs
from tmrl.networking import RolloutWorker
from tmrl.training import InProcessLine
from tmrl.transition import EpisodeRecord


def make_worker(env_cls: Any = CountingEnv, actor_cls: Any = CountingActor, **options: Any) -> RolloutWorker:
    if "sink" not in options:
        options["standalone"] = True
    return RolloutWorker(env_cls, actor_cls, worker_id="w", **options)


def observations(worker: RolloutWorker) -> list[list[float]]:
    return [sample[1].tolist() for sample in worker.buffer.memory]


def stamps(worker: RolloutWorker) -> list[tuple[int, int, int]]:
    return [(s.stamp.step, s.stamp.episode, s.stamp.episode_step) for s in worker.buffer.memory]


# The sample stream.


def test_an_episode_of_n_steps_is_n_plus_one_samples_and_the_last_holds_the_final_observation() -> None:
    """B05, B07: nothing is invented at an episode's end and nothing is lost."""
    worker = make_worker(lambda: CountingEnv(length=3))
    worker.collect_train_episode()
    assert observations(worker) == [[0, 0], [0, 1], [0, 2], [0, 3]]
    assert [s[3:5] for s in worker.buffer.memory] == [(False, False)] * 3 + [(True, False)]


def test_an_episode_of_one_step_is_a_reset_and_its_final_observation() -> None:
    """B07: the shortest episode."""
    worker = make_worker(lambda: CountingEnv(length=1))
    worker.collect_train_episode()
    assert observations(worker) == [[0, 0], [0, 1]]


def test_a_truncated_episode_ends_with_its_own_last_observation() -> None:
    """B01, B03: the observation after a timeout is not the next episode's first."""
    worker = make_worker(lambda: CountingEnv(length=2, truncates=True))
    worker.collect_train_episode()
    worker.collect_train_episode()
    assert observations(worker) == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert [s[4] for s in worker.buffer.memory] == [False, False, True] * 2


def test_a_reset_sample_has_no_action_no_reward_and_the_info_of_the_reset() -> None:
    worker = make_worker(lambda: CountingEnv(info=lambda step: {"step": step}))
    worker.reset(collect_samples=True)
    act, _, rew, terminated, truncated, info = worker.buffer.memory[0]
    assert (act, rew, terminated, truncated, info) == (None, 0.0, False, False, {"step": 0})
    assert type(rew) is float


def test_a_reset_sample_has_the_default_action_of_an_environment_that_has_one() -> None:
    class RealTimeEnv(CountingEnv):
        default_action = np.array([0.5], np.float32)

    worker = make_worker(lambda: gymnasium.wrappers.TimeLimit(RealTimeEnv(), 9))
    worker.reset(collect_samples=True)
    RealTimeEnv.default_action[0] = 9.0
    assert worker.buffer.memory[0][0] == 0.5


def test_an_action_is_the_one_that_led_to_the_observation_beside_it() -> None:
    worker = make_worker(lambda: CountingEnv(length=2))
    worker.collect_train_episode()
    assert [s[0] if s[0] is None else s[0].tolist() for s in worker.buffer.memory] == [None, [1.0], [2.0]]


def test_samples_stay_what_they_were_when_the_environment_overwrites_its_arrays() -> None:
    """B39: observations, actions, rewards and infos that are reused in place."""
    log = np.zeros(1)
    worker = make_worker(lambda: CountingEnv(length=3, info=lambda step: {"log": log, "nest": {"log": log}}))
    worker.collect_train_episode()
    samples = list(worker.buffer.memory)
    worker.env.unwrapped.obs[:] = -7.0
    worker.actor.action[:] = -7.0
    log[:] = -7.0
    assert [s[1].tolist() for s in samples] == [[0, 0], [0, 1], [0, 2], [0, 3]]
    assert [s[0].tolist() for s in samples[1:]] == [[1.0], [2.0], [3.0]]
    assert all(s[5]["log"] == 0.0 and s[5]["nest"]["log"] == 0.0 for s in samples)


@pytest.mark.parametrize("kind", [dict, type("Info", (dict,), {})])
def test_the_environments_own_info_is_never_written_to(kind: Any) -> None:
    """B39: an environment that reuses its info dict gets none of our entries back."""
    log = np.zeros(1)
    worker = make_worker(lambda: CountingEnv(info=lambda step: {"step": step, "log": log}), crc_debug=True)
    worker.env.info = kind()
    worker.collect_train_episode()
    log[:] = -7.0
    assert set(worker.env.info) == {"step", "log"}
    assert [(s[5]["step"], s[5]["log"].item()) for s in worker.buffer.memory] == [(i, 0.0) for i in range(5)]


def test_values_are_collected_as_the_environment_returned_them() -> None:
    class Typed(CountingEnv):
        def step(self, action: Any) -> Any:
            return {"b": np.float64(1.0), "a": (np.int8(2), [3])}, np.float16(0.5), np.bool_(False), False, {}

    worker = make_worker(Typed)
    worker.reset(collect_samples=True)
    worker.step(worker.buffer.memory[0][1], test=False, collect_samples=True)
    _, obs, rew, terminated, _, _ = worker.buffer.memory[1]
    assert list(obs) == ["b", "a"]
    assert [type(obs["b"]), type(obs["a"][0]), type(obs["a"][1]), type(rew), type(terminated)] == [
        np.float64, np.int8, list, np.float16, np.bool_
    ]  # fmt: skip


def test_the_preprocessor_comes_before_the_actor_the_compressor_and_the_checksums() -> None:
    seen = []

    def compress(*sample: Any) -> tuple[Any, ...]:
        seen.append(sample)
        return sample

    worker = make_worker(
        lambda: CountingEnv(length=2),
        obs_preprocessor=lambda obs: obs.astype(np.float64) * 10,
        sample_compressor=compress,
        crc_debug=True,
    )
    worker.collect_train_episode()
    assert [obs.tolist() for obs in worker.actor.seen] == [[0, 0], [0, 10]]
    assert [sample[1].tolist() for sample in seen] == [[0, 0], [0, 10], [0, 20]]
    assert seen[0][5]["crc"]["fields"] == nest_crcs("obs", np.array([0.0, 0.0]))


def test_the_buffer_holds_what_the_compressor_returned_with_the_stamp() -> None:
    worker = make_worker(sample_compressor=lambda *sample: (*sample, "seventh", "eighth"))
    worker.collect_train_episode(max_samples=1)
    assert [sample[6:] for sample in worker.buffer.memory] == [("seventh", "eighth")] * 2
    assert stamps(worker) == [(0, 0, 0), (1, 0, 1)]


def test_a_compressor_that_returns_no_tuple_is_told_so() -> None:
    worker = make_worker(sample_compressor=lambda *sample: None)
    with pytest.raises(TypeError, match="sample_compressor must return a tuple, got NoneType"):
        worker.reset(collect_samples=True)


def test_the_last_step_is_truncated_only_if_collected_and_not_terminated() -> None:
    worker = make_worker(lambda: CountingEnv(length=2))
    obs, _ = worker.reset(collect_samples=False)
    *_, truncated, _ = worker.step(obs, test=False, collect_samples=False, last_step=True)
    assert truncated is False
    worker.reset(collect_samples=True)
    *_, terminated, truncated, _ = worker.step(obs, test=False, collect_samples=True, last_step=True)
    assert (terminated, truncated) == (False, True)
    worker.reset(collect_samples=True)
    worker.step(obs, test=False, collect_samples=True)
    *_, terminated, truncated, _ = worker.step(obs, test=False, collect_samples=True, last_step=True)
    assert (bool(terminated), bool(truncated)) == (True, False)


def test_collecting_an_episode_truncates_it_at_the_limit_given_or_configured() -> None:
    worker = make_worker(lambda: CountingEnv(length=9), max_samples_per_episode=3)
    worker.collect_train_episode()
    worker.collect_train_episode(max_samples=1)
    assert [s[4] for s in worker.buffer.memory] == [False, False, False, True, False, True]


# Stamps.


def test_steps_are_counted_without_holes_over_episodes_and_resets() -> None:
    worker = make_worker(lambda: CountingEnv(length=2))
    worker.collect_train_episode()
    worker.collect_train_episode()
    assert stamps(worker) == [(0, 0, 0), (1, 0, 1), (2, 0, 2), (3, 1, 0), (4, 1, 1), (5, 1, 2)]


def test_two_lives_of_a_worker_have_different_epochs_and_unnamed_workers_different_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("time.time_ns", lambda: 7)  # a robot's clock may begin anew at each start
    first, second = make_worker(), make_worker()
    for worker in (first, second):
        worker.reset(collect_samples=True)
    assert first.buffer.memory[0].stamp.epoch != second.buffer.memory[0].stamp.epoch
    names = {RolloutWorker(CountingEnv, CountingActor, standalone=True).worker_id for _ in range(3)}
    assert len(names) == 3


def test_a_test_episode_between_two_steps_cuts_the_training_episode() -> None:
    """B09: the next sample collected is a reset of another episode, not a continuation."""
    worker = make_worker(lambda: CountingEnv(length=3))
    worker.collect_steps(1)
    worker.run_episode()
    worker.collect_steps(1)
    assert stamps(worker) == [(0, 0, 0), (1, 0, 1), (2, 1, 0), (3, 1, 1)]


def test_a_reset_in_the_middle_of_an_episode_begins_another() -> None:
    """B09: without any done."""
    worker = make_worker(lambda: CountingEnv(length=9))
    worker.collect_steps(2)
    worker.reset(collect_samples=True)
    worker.collect_steps(1)
    assert stamps(worker)[2:] == [(2, 0, 2), (3, 1, 0), (4, 1, 1)]


def test_a_step_that_was_not_collected_separates_the_samples_around_it() -> None:
    """B09: neighbours in the stream that were no neighbours in time share no episode."""
    worker = make_worker(lambda: CountingEnv(length=9))
    obs, _ = worker.reset(collect_samples=True)
    for collect in (True, False, True, True):
        obs, *_ = worker.step(obs, test=False, collect_samples=collect)
    assert stamps(worker) == [(0, 0, 0), (1, 0, 1), (2, 1, 3), (3, 1, 4)]


def test_a_step_that_raised_separates_the_samples_around_it() -> None:
    """B09: as Ctrl-C in a notebook does."""

    class Interrupted(CountingEnv):
        def step(self, action: Any) -> Any:
            result = super().step(action)
            if self.obs[1] == 2:
                raise KeyboardInterrupt
            return result

    worker = make_worker(Interrupted)
    with pytest.raises(KeyboardInterrupt):
        worker.collect_steps(9)
    assert not worker.is_episode_open
    worker.step(worker.env.unwrapped.obs, test=False, collect_samples=True)
    assert stamps(worker) == [(0, 0, 0), (1, 0, 1), (2, 1, 3)]


def test_no_sample_is_a_step_whose_action_was_ignored_by_an_autoreset() -> None:
    """B08: the worker resets by itself, so that the autoreset never fires."""
    worker = make_worker(lambda: Autoreset(CountingEnv(length=2)))
    worker.collect_steps(5)
    assert observations(worker) == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2], [2, 0], [2, 1]]
    assert [s[0] is None for s in worker.buffer.memory] == [o[1] == 0 for o in observations(worker)]


def test_the_info_of_a_step_overrides_the_source() -> None:
    labels = [{}, {"source": "intervention"}, {"source": "online"}]
    worker = make_worker(lambda: CountingEnv(length=2, info=lambda step: labels[step]), source="demo")
    worker.collect_train_episode()
    assert [s.stamp.source for s in worker.buffer.memory] == ["demo", "intervention", "online"]


def test_a_source_that_is_no_str_is_refused() -> None:
    worker = make_worker(lambda: CountingEnv(info=lambda step: {"source": 3}))
    with pytest.raises(TypeError, match=r'info\["source"\] labels .* must be a str, got 3; rename'):
        worker.reset(collect_samples=True)


# Checksums.


def test_checksums_are_those_of_the_transition_the_worker_saw() -> None:
    worker = make_worker(lambda: CountingEnv(length=3), crc_debug=True)
    worker.collect_train_episode(max_samples=2)
    previous, last = worker.buffer.memory[1:]
    act, obs, rew, terminated, truncated, info = last
    assert truncated is True
    check_transition(info, previous[1], act, obs, rew, terminated, truncated)
    assert (info["crc"]["worker"], info["crc"]["episode"], info["crc"]["step"]) == ("w", 0, 2)
    assert "crc_sample" not in info


def test_checksums_come_before_the_compressor() -> None:
    worker = make_worker(
        crc_debug=True, sample_compressor=lambda a, o, r, d, t, i: (a, o * 0 + 7, r, d, t, i)
    )
    worker.reset(collect_samples=True)
    _, obs, *_, info = worker.buffer.memory[0]
    assert obs.tolist() == [7, 7]
    assert info["crc"]["fields"] == nest_crcs("obs", np.zeros(2, np.float32))


def test_the_older_checksum_entries_are_written_when_asked_for() -> None:
    worker = make_worker(lambda: CountingEnv(length=2), crc_debug=True, crc_samples=True)
    worker.collect_train_episode()
    worker.collect_train_episode()
    infos = [s[5] for s in worker.buffer.memory]
    assert [i["crc_sample_ts"] for i in infos] == [(1, 0), (2, 1), (3, 2), (4, 0), (5, 1), (6, 2)]
    assert infos[0]["crc_sample"][0] is None
    prev_obs, act, obs, rew, terminated, truncated = infos[1]["crc_sample"]
    assert (prev_obs.tolist(), act.tolist(), obs.tolist()) == ([0, 0], [1], [0, 1])
    assert (rew, bool(terminated), bool(truncated)) == (1.0, False, False)


# Episodes and their statistics.


def test_steps_collected_in_pieces_are_the_same_samples_as_whole_episodes() -> None:
    pieces, whole = make_worker(), make_worker()
    for count in (1, 2, 3, 6):
        pieces.collect_steps(count)
    for _ in range(3):
        whole.collect_train_episode()
    assert observations(pieces) == observations(whole)
    assert stamps(pieces) == stamps(whole)


def test_a_finished_training_episode_is_recorded_once() -> None:
    worker = make_worker(lambda: CountingEnv(length=3))
    worker.collect_train_episode()
    assert worker.buffer.episodes == [EpisodeRecord("w", 3.0, 3, is_test=False)]
    assert (worker.buffer.stat_train_return, worker.buffer.stat_train_steps) == (3.0, 3)


def test_a_partial_episode_is_not_reported_as_a_whole_one() -> None:
    worker = make_worker(lambda: CountingEnv(length=3))
    worker.collect_steps(2)
    assert worker.buffer.episodes == []
    worker.collect_steps(1)
    assert [record.episode_return for record in worker.buffer.episodes] == [3.0]
    obs, _ = worker.reset(collect_samples=False)
    for _ in range(3):
        obs, *_ = worker.step(obs, test=False, collect_samples=True)
    assert len(worker.buffer.episodes) == 1


def test_a_test_episode_is_recorded_and_not_collected() -> None:
    worker = make_worker(lambda: CountingEnv(length=3))
    worker.run_episode()
    worker.run_episode(max_samples=2, train=True)
    assert len(worker.buffer) == 0
    assert [(r.episode_return, r.length, r.is_test) for r in worker.buffer.episodes] == [
        (3.0, 3, True),
        (2.0, 2, True),
    ]
    assert (worker.buffer.stat_test_return, worker.buffer.stat_test_steps) == (2.0, 2)
    assert worker.actor.tests == [True] * 3 + [False] * 2


def test_run_episodes_runs_as_many_as_asked_for() -> None:
    worker = make_worker(lambda: CountingEnv(length=2))
    worker.run_episodes(nb_episodes=3)
    assert [record.length for record in worker.buffer.episodes] == [2, 2, 2]


def test_the_first_reset_is_seeded_and_no_other() -> None:
    worker = make_worker(lambda: CountingEnv(length=1), seed=7)
    worker.collect_steps(3)
    assert worker.env.unwrapped.seeds == [7, None, None]


def test_an_episode_ends_also_where_its_last_sample_cannot_be_made() -> None:
    """B09: an environment that is done is reset, not stepped."""

    def compress(*sample: Any) -> tuple[Any, ...]:
        if sample[3]:
            raise RuntimeError("the last one")
        return sample

    worker = make_worker(lambda: CountingEnv(length=2), sample_compressor=compress)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="the last one"):
            worker.collect_steps(2)
    assert observations(worker) == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert stamps(worker) == [(0, 0, 0), (1, 0, 1), (3, 1, 0), (4, 1, 1)]
    assert worker.buffer.episodes == []


# Construction.


def test_a_vector_environment_is_refused() -> None:
    """B03: many environments in one have final observations of their own kind."""
    with pytest.raises(TypeError, match="steps one environment, got SyncVectorEnv of 2; use a VectorWorker"):
        make_worker(lambda: SyncVectorEnv([CountingEnv, CountingEnv]))


def test_a_worker_with_neither_a_sink_nor_standalone_is_refused() -> None:
    with pytest.raises(
        ValueError, match="needs a line to its trainer, got none; pass sink=, or standalone=True"
    ):
        tmrl.worker.RolloutWorker(CountingEnv, CountingActor)


def test_arguments_of_the_old_transport_are_ignored_with_one_warning() -> None:
    with pytest.warns(UserWarning, match="ignores password, hostname: .* use credential= instead") as caught:
        make_worker(hostname="trainer", password="secret")
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_worker()


@pytest.mark.parametrize("limit", [0, -1])
def test_an_episode_limit_below_one_is_refused(limit: int) -> None:
    with pytest.raises(ValueError, match=f"max_samples_per_episode must be at least 1, got {limit}"):
        make_worker(max_samples_per_episode=limit)
    with pytest.raises(ValueError, match=f"max_samples must be at least 1, got {limit}"):
        make_worker().collect_train_episode(max_samples=limit)


def test_closing_a_worker_closes_its_environment() -> None:
    with make_worker() as worker:
        pass
    assert worker.env.unwrapped.is_closed


# The line.


def test_sending_hands_samples_and_episodes_over_and_clears_the_buffer() -> None:
    line = InProcessLine()
    worker = make_worker(lambda: CountingEnv(length=2), sink=line)
    worker.collect_train_episode()
    worker.send_and_clear_buffer()
    assert (len(worker.buffer), worker.buffer.episodes) == (0, [])
    received = line.retrieve_buffer()
    assert (len(received), len(received.episodes), received.stat_train_return) == (3, 1, 2.0)
    assert len(line.retrieve_buffer()) == 0


def test_a_standalone_worker_keeps_what_it_collects() -> None:
    worker = make_worker(lambda: CountingEnv(length=2))
    worker.run(nb_episodes=2)
    worker.run_synchronous(nb_steps=1)
    assert len(worker.buffer) == 4 * 3
    assert worker.update_actor_weights() == worker.ignore_actor_weights() == 0
    with pytest.raises(
        ValueError, match="standalone worker cannot wait for a policy: it has no sink; pass sink="
    ):
        worker.update_actor_weights(blocking=True)


def test_the_newest_policy_is_taken_and_all_are_counted() -> None:
    line = InProcessLine()
    worker = make_worker(sink=line)
    first = worker.actor
    for calls in (5, 6):
        actor = CountingActor(None, None)
        actor.calls = calls
        line.broadcast_model(actor)
    assert worker.update_actor_weights() == 2
    assert worker.actor is not first
    assert (worker.actor.calls, worker.policy_version) == (6, 2)
    worker.collect_train_episode()
    assert worker.buffer.episodes[0].policy_version == 2
    assert worker.update_actor_weights() == 0


def test_dropped_policies_change_nothing() -> None:
    line = InProcessLine()
    worker = make_worker(sink=line)
    first = worker.actor
    line.broadcast_model(CountingActor(None, None))
    assert worker.ignore_actor_weights() == 1
    assert worker.actor is first
    assert worker.update_actor_weights() == 0


def test_a_broadcast_is_a_copy() -> None:
    """B39: the agent goes on changing its own."""
    line = InProcessLine()
    worker = make_worker(sink=line)
    actor = CountingActor(None, None)
    line.broadcast_model(actor)
    actor.action[:] = 9.0
    worker.update_actor_weights()
    assert worker.actor.action[0] == 0.0


def test_run_tests_collects_sends_and_updates() -> None:
    line = AnsweringLine(policies=[1, 0, 2])
    worker = make_worker(lambda: CountingEnv(length=2), sink=line)
    worker.run(test_episode_interval=2, nb_episodes=3)
    assert [len(samples) for samples in line.sent] == [3, 3, 3]
    assert [r.is_test for r in line.retrieve_buffer().episodes] == [True, False, False, True, False]
    assert worker.policy_version == 3


def test_an_expert_run_keeps_its_policy_and_runs_no_tests() -> None:
    line = AnsweringLine(policies=[1, 1])
    worker = make_worker(sink=line)
    first = worker.actor
    worker.run(test_episode_interval=1, nb_episodes=2, expert=True)
    assert worker.actor is first
    assert [r.is_test for r in line.retrieve_buffer().episodes] == [False, False]


def test_there_are_no_test_episodes_in_crc_mode() -> None:
    worker = make_worker(crc_debug=True)
    worker.run(test_episode_interval=1, nb_episodes=2)
    assert [r.is_test for r in worker.buffer.episodes] == [False, False]


def test_a_verbose_run_logs_each_episode(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tmrl")
    make_worker().run(nb_episodes=2)
    assert len(caplog.messages) == 2


def test_a_blocked_worker_goes_on_when_the_policy_comes() -> None:
    line = InProcessLine()
    worker = make_worker(sink=line)
    waiter = threading.Thread(target=worker.update_actor_weights, kwargs={"blocking": True})
    waiter.start()
    line.broadcast_model(CountingActor(None, None))
    waiter.join(timeout=60)
    assert worker.policy_version == 1


# Policy files.


class SavedActor(CountingActor):
    """Its file is the number of its calls."""

    def save(self, path: Any) -> None:
        with open(path, "w") as file:
            file.write(str(self.calls))

    def load(self, path: Any, device: Any) -> ActorModule:
        with open(path) as file:
            self.calls = int(file.read())
        return self


def test_a_worker_reads_its_policy_file_and_keeps_it_up_to_date(tmp_path: Any) -> None:
    line = InProcessLine()
    path = tmp_path / "policy.tmod"
    options = {"model_path": path, "model_path_history": tmp_path / "old_", "model_history": 2}
    worker = make_worker(actor_cls=SavedActor, sink=line, **options)
    assert worker.actor.calls == 0
    for calls in range(1, 6):
        actor = SavedActor(None, None)
        actor.calls = calls
        line.broadcast_model(actor)
        worker.update_actor_weights()
    assert make_worker(actor_cls=SavedActor, model_path=path).actor.calls == 5
    assert sorted(file.read_text() for file in tmp_path.glob("old_*.tmod")) == ["2", "4"]


def test_no_file_is_written_unless_a_path_is_given(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    line = InProcessLine()
    worker = make_worker(actor_cls=SavedActor, sink=line)
    line.broadcast_model(SavedActor(None, None))
    worker.update_actor_weights()
    assert list(tmp_path.iterdir()) == []


def test_a_history_without_a_path_is_refused() -> None:
    with pytest.raises(ValueError, match="model_history=3 keeps policies under model_path_history, got None"):
        make_worker(model_history=3)


def test_a_pickled_policy_is_read_only_if_asked_for_by_name(tmp_path: Any) -> None:
    path = tmp_path / "policy.pkl"
    CountingActor(None, None).save(path)
    with pytest.raises(ValueError, match="if you trust it, pass allow_pickle=True"):
        make_worker(model_path=path)
    assert make_worker(model_path=path, allow_pickle=True).actor.calls == 0


# Benchmarks.


def test_the_benchmark_of_an_environment_steps_it_and_returns_its_figures() -> None:
    class Measured(CountingEnv):
        def benchmarks(self) -> Any:
            return {"last": self.obs.tolist()}

    worker = make_worker(lambda: Measured(length=2))
    assert worker.run_env_benchmark(nb_steps=5) == {"last": [2.0, 1.0]}
    assert len(worker.buffer) == 0


def test_an_environment_without_benchmarks_is_told_so() -> None:
    with pytest.raises(ValueError, match=r"run_env_benchmark needs an environment with benchmarks\(\)"):
        make_worker().run_env_benchmark(nb_steps=1)
