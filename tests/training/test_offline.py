"""The training loop: its order, its ratio, its rounds; end to end through a worker and a memory."""

import copy
import functools
import logging
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dummies import CountingActor, CountingAgent, CountingEnv, ListMemory
from tmrl import training_offline
from tmrl.actor import ActorModule, TorchActorModule
from tmrl.memory import ReplayMemory
from tmrl.networking import Buffer, RolloutWorker
from tmrl.training import InProcessLine, TorchTrainingOffline, TrainingAgent, TrainingOffline, WorkerSource
from tmrl.training import offline as offline_module
from tmrl.transition import Batch

SPACES = (CountingEnv.observation_space, CountingEnv.action_space)


class Script:
    """A source that hands out Buffers of given lengths and notes everything that happens."""

    def __init__(self, lengths: Any) -> None:
        self.lengths = iter(lengths)
        self.events: list[str] = []

    def retrieve_buffer(self) -> Buffer:
        buffer = Buffer()
        length = next(self.lengths)
        self.events.append(f"retrieve {length}")
        obs = np.zeros(2, np.float32)
        buffer.memory = [(np.zeros(1, np.float32), obs, 1.0, False, False, {})] * length
        if length:
            buffer.stat_train_return, buffer.stat_test_return = 5.0, 6.0
            buffer.stat_train_steps, buffer.stat_test_steps = 7, 8
        return buffer

    def broadcast_model(self, actor: ActorModule) -> None:
        self.events.append(f"broadcast {actor.calls // 1000}")


class NotingAgent(CountingAgent):
    def __init__(self, events: list[str], **arguments: Any) -> None:
        super().__init__(**arguments)
        self.events = events

    def train(self, batch: Any) -> Any:
        self.events.append("train")
        return super().train(batch)


class NotingMemory(ListMemory):
    def __init__(self, events: list[str], **arguments: Any) -> None:
        super().__init__(**arguments)
        self.events = events

    def sample(self) -> Any:
        self.events.append("draw")
        return super().sample()


def make(source: Script, cls: Any = TrainingOffline, **options: Any) -> Any:
    return cls(
        env_cls=SPACES,
        memory_cls=functools.partial(NotingMemory, source.events, batch_size=2),
        training_agent_cls=functools.partial(NotingAgent, source.events),
        **{
            "epochs": 1,
            "rounds": 1,
            "device": "cpu",
            "sleep_between_buffer_retrieval_attempts": 0.0,
            **options,
        },
    )


def test_the_loop_retrieves_after_the_draw_and_broadcasts_after_the_update() -> None:
    source = Script([9, 9, 9])
    make(source, steps=4, update_buffer_interval=2, update_model_interval=3).run_epoch(source)
    assert source.events == [
        "retrieve 9",
        *("draw", "retrieve 9", "train"),
        *("draw", "train"),
        *("draw", "retrieve 9", "train", "broadcast 3"),
        *("draw", "train"),
    ]


def test_the_loop_waits_while_it_is_ahead_of_the_samples() -> None:
    source = Script([2, 0, 1, 0, 0, 2])
    training = make(source, steps=4, update_buffer_interval=100, max_training_steps_per_env_step=1.0)
    training.run_epoch(source)
    # n updates on n samples are not ahead; before the next step, n + 1 on n are.
    assert source.events == [
        "retrieve 2",
        *("draw", "retrieve 0", "train"),
        *("draw", "train"),
        *("draw", "train", "retrieve 1"),
        *("draw", "train", "retrieve 0", "retrieve 0", "retrieve 2"),
    ]
    assert (training.total_updates, training.total_samples) == (4, 5)


def test_the_loop_leaves_samples_where_they_are_while_they_are_ahead_of_it() -> None:
    source = Script([4] * 99)
    training = make(source, steps=6, update_buffer_interval=1, max_env_steps_ahead=2)
    training.run_epoch(source)
    # After n updates the loop retrieves only if fewer than 1 + n + 2 samples came; four come at a time.
    assert source.events == [
        "retrieve 4",
        *("draw", "train"),
        *("draw", "train"),
        *("draw", "retrieve 4", "train"),
        *("draw", "train") * 3,
    ]


def test_a_loop_that_leaves_samples_where_they_are_says_why_if_it_takes_long(
    monkeypatch: Any, caplog: Any
) -> None:
    monkeypatch.setattr("tmrl.waiting.TELL_AFTER_S", 0.0)
    source = Script([9] * 99)
    make(source, steps=3, update_buffer_interval=1, max_env_steps_ahead=2).run_epoch(source)
    told = "on the training, which has taken 1 steps for 9 samples, and max_env_steps_ahead=2"
    assert told in caplog.text
    assert "waiting for room for more samples since" in caplog.text


def test_a_memory_without_a_transition_gets_samples_however_far_ahead_they_are() -> None:
    source = Script([1, 0, 1, 0, 1])
    make(source, steps=1, update_buffer_interval=100, max_env_steps_ahead=0.5).run_epoch(source)
    assert source.events.count("train") == 1


def test_a_loop_that_waits_long_says_for_what(monkeypatch: Any, caplog: Any) -> None:
    monkeypatch.setattr("tmrl.waiting.TELL_AFTER_S", 0.0)
    source = Script([3, 0, 3, 3])
    make(source, steps=1, start_training=5, update_buffer_interval=100).run_epoch(source)
    assert "waiting for a training step" in caplog.text
    assert "on 2 more samples, for start_training=5" in caplog.text


def test_a_loop_that_waits_in_silence_sends_its_policy_again(monkeypatch: Any) -> None:
    """A worker in step may be waiting for one, and neither would ever go on."""
    monkeypatch.setattr(offline_module, "CALL_AFTER_S", 0.0)
    source = Script([1, 0, 0, 3, 9])
    make(source, steps=1, start_training=4).run_epoch(source)
    silence = ["retrieve 0", "broadcast 0"] * 2
    assert source.events == ["retrieve 1", *silence, "retrieve 3", "draw", "retrieve 9", "train"]


def test_a_loop_that_waits_does_not_send_its_policy_at_once() -> None:
    source = Script([1, 0, 0, 3, 9])
    make(source, steps=1, start_training=4).run_epoch(source)
    assert not [event for event in source.events if event.startswith("broadcast")]


def test_pauses_between_two_calls_grow(monkeypatch: Any) -> None:
    now = 0
    monkeypatch.setattr(offline_module.time, "monotonic", lambda: now)
    silence, called_at = offline_module._Silence(), []
    for now in range(200):
        called_at += [now] * silence.is_long()
    assert called_at == [2, 6, 14, 30, 62, 122, 182]


def test_updates_stay_bounded_by_samples_over_rounds_and_epochs() -> None:
    """B58: no burst, also where a stored run goes on."""
    source = Script([4] * 99)
    seen = []
    training = make(
        source,
        rounds=3,
        steps=5,
        max_training_steps_per_env_step=0.5,
        on_update=lambda run, _: seen.append(run.total_updates / run.total_samples),
    )
    training.run_epoch(source)
    resumed = copy.copy(training)
    resumed.run_epoch(source)
    # One step may pass the limit: it is checked between steps.
    assert max(seen) <= 0.5 + 1 / 4
    assert resumed.total_updates == 30
    assert resumed.total_samples >= 60


def test_training_starts_when_enough_raw_samples_arrived() -> None:
    source = Script([3, 3, 3, 3])
    make(source, steps=1, start_training=9, update_buffer_interval=100).run_epoch(source)
    assert source.events == ["retrieve 3"] * 3 + ["draw", "retrieve 3", "train"]


def test_training_waits_for_the_first_transition() -> None:
    source = Script([1, 1, 1])
    make(source, steps=1).run_epoch(source)
    assert source.events[:3] == ["retrieve 1", "retrieve 1", "draw"]


def test_the_loop_sleeps_only_after_a_retrieval_that_brought_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []
    monkeypatch.setattr(offline_module.time, "sleep", naps.append)
    source = Script([0, 2, 2, 0, 2, 0])
    make(source, steps=1, start_training=6, sleep_between_buffer_retrieval_attempts=0.25).run_epoch(source)
    assert naps == [0.25, 0.25]


def test_a_round_reports_the_means_and_what_the_loop_measured() -> None:
    source = Script([9] * 9)
    training = make(source, rounds=2, steps=3)
    first, second = training.run_epoch(source)
    assert set(first) == {
        *("memory_len", "round_time", "idle_time", "loss"),
        *("return_test", "return_train", "episode_length_test", "episode_length_train"),
        *("sampling_duration", "training_step_duration"),
    }
    assert (first["loss"], second["loss"]) == (2.0, 5.0)
    assert (first["return_train"], first["return_test"]) == (5.0, 6.0)
    assert (first["episode_length_train"], first["episode_length_test"]) == (7.0, 8.0)
    assert second["memory_len"] == len(training.memory)
    assert 0.0 < first["training_step_duration"] < first["round_time"]
    assert training.epoch == 1


def test_the_observer_sees_every_update_with_its_metrics() -> None:
    source = Script([9, 9])
    seen: list[Any] = []
    make(source, steps=3, on_update=lambda run, m: seen.append((run.total_updates, m["loss"]))).run_epoch(
        source
    )
    assert seen == [(1, 1.0), (2, 2.0), (3, 3.0)]


class ErringAgent(CountingAgent):
    """Leaves the number of the update as the error of each sample, but for the second update."""

    def train(self, batch: Any) -> Any:
        metrics = super().train(batch)
        errors = np.full(len(batch[2]), float(len(self.batches)))
        self.td_errors = None if len(self.batches) == 2 else errors
        return metrics


class RankedMemory(ListMemory):
    """Takes priorities, and notes what else it was asked at that time."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.draws = 0
        self.updates: list[Any] = []

    def sample(self) -> Any:
        self.draws += 1
        ids = np.full(self.batch_size, self.draws, np.int64)
        return Batch(super().sample(), SimpleNamespace(ids=lambda: ids), {})

    def update_priorities(self, ids: Any, td_errors: Any) -> None:
        self.updates.append((self.draws, ids.tolist(), td_errors.tolist()))


def train_on(memory_cls: Any, agent_cls: Any) -> Any:
    training = TrainingOffline(
        SPACES, functools.partial(memory_cls, batch_size=2), agent_cls, rounds=1, steps=3, device="cpu"
    )
    training.run_epoch(Script([9, 9]))
    assert training.total_updates == 3
    return training


def test_errors_reach_a_memory_that_takes_priorities_before_the_next_draw() -> None:
    updates = train_on(RankedMemory, ErringAgent).memory.updates
    assert updates == [(1, [1, 1], [1.0, 1.0]), (3, [3, 3], [3.0, 3.0])]


class UnrankedMemory(RankedMemory):
    """Could take priorities, if its sampler had any."""

    sampler = SimpleNamespace(has_priorities=False)


def test_agents_without_errors_and_memories_without_priorities_go_on_as_before() -> None:
    assert train_on(RankedMemory, CountingAgent).memory.updates == []
    assert train_on(UnrankedMemory, ErringAgent).memory.updates == []
    train_on(ListMemory, ErringAgent)


def test_the_scheduler_gets_the_agent_and_the_epoch_before_each_epoch() -> None:
    source = Script([9] * 9)
    seen: list[Any] = []
    training = make(source, steps=1, agent_scheduler=lambda agent, epoch: seen.append((agent, epoch)))
    training.run_epoch(source)
    training.run_epoch(source)
    assert seen == [(training.agent, 0), (training.agent, 1)]


def test_an_epoch_can_be_profiled(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tmrl")
    source = Script([9, 9])
    make(source, steps=1, profiling=True).run_epoch(source)
    assert "run_round" in caplog.messages[-1]


def test_spaces_come_from_an_environment_that_is_closed_again() -> None:
    envs: list[CountingEnv] = []

    def make_env() -> CountingEnv:
        envs.append(CountingEnv())
        return envs[-1]

    training = TrainingOffline(make_env, ListMemory, CountingAgent, device="cpu")
    assert training.agent.observation_space == CountingEnv.observation_space
    assert envs[0].is_closed


def test_the_memory_is_made_for_the_rounds_of_the_loop_and_counts_what_it_holds() -> None:
    class Filled(ListMemory):
        def __init__(self, **arguments: Any) -> None:
            super().__init__(**arguments)
            self.append_buffer(Script([5]).retrieve_buffer())

    training = TrainingOffline(SPACES, Filled, CountingAgent, steps=7, device="cpu")
    assert (training.memory.nb_steps, training.memory.device, training.total_samples) == (7, "cpu", 4)


def test_the_torch_loop_chooses_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    arguments = (SPACES, ListMemory, CountingAgent)
    assert TorchTrainingOffline(*arguments).memory.device == "cuda"
    assert TorchTrainingOffline(*arguments, device="cpu").agent.device == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert TorchTrainingOffline(*arguments).device == "cpu"


@pytest.mark.parametrize("name", ["rounds", "steps", "update_model_interval", "update_buffer_interval"])
def test_counts_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        TrainingOffline(SPACES, ListMemory, CountingAgent, **{name: 0})


def test_two_trainings_are_never_equal_and_the_old_path_leads_here() -> None:
    first, second = (TrainingOffline(SPACES, ListMemory, CountingAgent) for _ in range(2))
    assert first != second
    assert training_offline.TrainingOffline is TrainingOffline
    assert training_offline.TorchTrainingOffline is TorchTrainingOffline


# End to end.


class Mean(TorchActorModule):
    def __init__(self, observation_space: Any, action_space: Any) -> None:
        super().__init__(observation_space, action_space)
        self.layer = torch.nn.Linear(2, 1)

    def act(self, obs: Any, test: bool = False) -> Any:
        return torch.tanh(self.layer(obs)).squeeze(0).numpy()


class Regression(TrainingAgent):
    """Learns to act as the batch did, less one: enough to change its weights."""

    def __init__(self, observation_space: Any, action_space: Any, device: Any) -> None:
        super().__init__(observation_space, action_space, device)
        self.actor = Mean(observation_space, action_space).to_device(device)
        self.optimizer = torch.optim.SGD(self.actor.parameters(), 0.01)
        self.transitions: set[tuple[Any, ...]] = set()

    def train(self, batch: Any) -> Any:
        prev_obs, act, _, new_obs, terminated, truncated = batch
        self.transitions |= set(
            zip(*(x.tolist() for x in (*prev_obs.T, *new_obs.T, terminated, truncated)), strict=True)
        )
        loss = ((self.actor.layer(prev_obs) - act + 1) ** 2).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss}

    def get_actor(self) -> ActorModule:
        return self.actor


@pytest.mark.parametrize("memory_cls", [ReplayMemory, ListMemory])
def test_samples_reach_the_agent_bit_by_bit_and_policies_reach_the_worker(memory_cls: Any) -> None:
    """B01, B03, B07, B39, B59: worker, line, memory, loop and agent together, checked by checksums."""
    torch.manual_seed(0)
    worker = RolloutWorker(
        lambda: CountingEnv(length=3), Mean, standalone=True, crc_debug=True, crc_samples=True, worker_id="w"
    )
    with WorkerSource(worker, steps_per_retrieval=5, test_interval_episodes=2) as source:
        training = TorchTrainingOffline(
            worker.env.__class__,
            functools.partial(memory_cls, batch_size=8, crc_debug=True),
            Regression,
            rounds=2,
            steps=20,
            update_model_interval=4,
            update_buffer_interval=5,
            start_training=8,
            device="cpu",
        )
        rounds = training.run_epoch(source)
    assert training.total_updates == 40
    assert rounds[1]["return_test"] == rounds[1]["return_train"] == 3.0
    assert all(
        previous[0] == following[0] and following[1] == previous[1] + 1
        for previous, following in ((t[0:2], t[2:4]) for t in training.agent.transitions)
    )
    assert {t[4] for t in training.agent.transitions if t[3] == 3} == {1.0}
    assert len(training.agent.transitions) > 20
    assert worker.policy_version == 10
    assert worker.actor is not training.agent.actor
    assert torch.equal(worker.actor.layer.weight, training.agent.actor.layer.weight)


def test_a_worker_in_a_thread_of_its_own_keeps_step_with_the_trainer() -> None:
    """B41, B59: samples and policies cross between two threads; the memory checks every transition."""
    line = InProcessLine()
    worker = RolloutWorker(lambda: CountingEnv(length=3), CountingActor, crc_debug=True, sink=line)
    run = functools.partial(worker.run_synchronous, nb_steps=40, max_steps_per_update=4, end_episodes=False)
    thread = threading.Thread(target=run, daemon=True)
    training = TrainingOffline(
        CountingEnv,
        functools.partial(ReplayMemory, batch_size=8, crc_debug=True),
        CountingAgent,
        rounds=1,
        steps=80,
        update_buffer_interval=1,
        update_model_interval=1,
        max_training_steps_per_env_step=np.inf,
        sleep_between_buffer_retrieval_attempts=0.001,
        device="cpu",
    )
    thread.start()
    training.run_epoch(line)
    thread.join(timeout=60)
    assert not thread.is_alive()
    training.update_buffer(line)
    # One sample to begin with, then forty; the batch that was drawn is the agent's to keep.
    assert training.total_samples == 41
    assert all((batch.new_obs[:, 1] == batch.prev_obs[:, 1] + 1).all() for batch in training.agent.batches)


def test_a_sample_that_was_changed_on_the_way_stops_the_training() -> None:
    worker = RolloutWorker(
        CountingEnv,
        CountingActor,
        standalone=True,
        crc_debug=True,
        worker_id="w",
        sample_compressor=lambda act, obs, rew, d, t, info: (act, obs, rew * 2, d, t, info),
    )
    training = TorchTrainingOffline(
        CountingEnv, functools.partial(ReplayMemory, crc_debug=True), CountingAgent, device="cpu"
    )
    with pytest.raises(AssertionError, match=r"rew of step .* of worker 'w' is not what the worker saw"):
        training.run_epoch(WorkerSource(worker))


def test_a_step_that_was_not_collected_makes_no_transition() -> None:
    """B09: from the worker to the memory."""
    worker = RolloutWorker(lambda: CountingEnv(length=9), CountingActor, standalone=True)
    obs, _ = worker.reset(collect_samples=True)
    for collect in (True, False, True, True):
        obs, *_ = worker.step(obs, test=False, collect_samples=collect)
    memory = ReplayMemory(batch_size=4, seed=0)
    memory.append(worker.buffer)
    pairs = [(memory[i][0][1].item(), memory[i][3][1].item()) for i in range(len(memory))]
    assert pairs == [(0, 1), (3, 4)]
