"""Trainer: epochs, checkpoints through the caller's functions, Weights & Biases."""

import functools
import itertools
import pickle
import sys
import types
from pathlib import Path
from typing import Any, Self

import pytest

from dummies import CountingActor, CountingAgent, CountingEnv, ListMemory
from tmrl.memory import ReplayMemory
from tmrl.networking import RolloutWorker, Trainer
from tmrl.networking.trainer import iterate_epochs
from tmrl.training import Checkpoint, TrainingOffline, WorkerSource


def make_source() -> WorkerSource:
    return WorkerSource(RolloutWorker(CountingEnv, CountingActor, standalone=True))


def make_training(**options: Any) -> Any:
    return functools.partial(
        TrainingOffline,
        (CountingEnv.observation_space, CountingEnv.action_space),
        functools.partial(ListMemory, batch_size=2),
        CountingAgent,
        **{"epochs": 2, "rounds": 1, "steps": 3, "device": "cpu", **options},
    )


class Checkpoints:
    """Dumps and loads by pickle and notes when."""

    def __init__(self) -> None:
        self.dumped: list[int] = []
        self.loaded: list[int] = []

    def dump(self, run: TrainingOffline, path: Any) -> None:
        self.dumped.append(run.epoch)
        Path(path).write_bytes(pickle.dumps(run))

    def load(self, path: Any) -> Any:
        run = pickle.loads(Path(path).read_bytes())
        self.loaded.append(run.epoch)
        return run


def test_a_run_trains_all_epochs_and_returns() -> None:
    seen: list[int] = []
    observer = lambda run, _: seen.append(run.epoch)  # noqa: E731
    with Trainer(make_training(on_update=observer), source=make_source()) as trainer:
        trainer.run()
    assert seen == [0, 0, 0, 1, 1, 1]


def test_the_trainer_closes_its_source() -> None:
    source = make_source()
    with Trainer(make_training(), source=source):
        pass
    assert source.worker.env.is_closed


def test_a_source_without_close_is_left_alone() -> None:
    Trainer(make_training(), source=types.SimpleNamespace()).close()  # type: ignore[arg-type]


def test_every_policy_is_written_to_the_model_path_before_it_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "policy.pkl"
    source = make_source()
    Trainer(make_training(update_model_interval=3), model_path=path, source=source).run()
    saved = CountingActor(None, None).load(path, "cpu", allow_pickle=True)
    assert saved.calls == 6000
    assert source.worker.policy_version == 2


def test_nothing_is_written_unless_a_path_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Trainer(make_training(), source=make_source()).run()
    assert list(tmp_path.iterdir()) == []


def test_a_stored_run_goes_on_where_it_was(tmp_path: Path) -> None:
    """B58: epochs, updates, samples and the memory; no burst of updates for samples it had used."""
    path, checkpoints = tmp_path / "run", Checkpoints()
    options = {
        "checkpoint_path": path,
        "dump_run_instance_fn": checkpoints.dump,
        "load_run_instance_fn": checkpoints.load,
    }
    Trainer(make_training(), **options, source=make_source()).run()
    assert (checkpoints.dumped, checkpoints.loaded) == ([0, 1, 2], [])
    before = pickle.loads(path.read_bytes())

    def extend(run: Any, run_cls: Any) -> Any:
        assert run_cls is training_cls
        run.epochs = 3
        return run

    training_cls = make_training()
    Trainer(training_cls, **options, updater_fn=extend, source=make_source()).run()
    after = pickle.loads(path.read_bytes())
    assert (checkpoints.dumped, checkpoints.loaded) == ([0, 1, 2, 3], [2])
    assert (before.total_updates, after.total_updates) == (6, 9)
    assert after.total_samples >= before.total_samples
    assert len(after.memory) >= len(before.memory) > 0


class SavedAgent(CountingAgent):
    """Counts in a number, which a checkpoint holds."""

    not_saved = ("batches", "actor")

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.updates = 0

    def train(self, batch: Any) -> Any:
        self.updates += 1
        return super().train(batch)


def make_saved(memory_cls: Any = ListMemory, **options: Any) -> Any:
    return functools.partial(
        TrainingOffline,
        (CountingEnv.observation_space, CountingEnv.action_space),
        functools.partial(memory_cls, batch_size=2),
        SavedAgent,
        **{"rounds": 1, "steps": 3, "device": "cpu", **options},
    )


@pytest.mark.parametrize("memory_cls", [ListMemory, ReplayMemory])
def test_a_path_alone_is_a_checkpoint_to_go_on_from(memory_cls: Any, tmp_path: Path) -> None:
    """B58: saved at the start and after each epoch; what the training is made with now wins."""
    saved: list[int] = []
    note = lambda agent, epoch: saved.append(Checkpoint(tmp_path / "run").counters()["epoch"])  # noqa: E731
    options = {"checkpoint_path": tmp_path / "run", "source": make_source()}
    Trainer(make_saved(memory_cls, epochs=2, agent_scheduler=note), **options).run()
    assert saved == [0, 1]
    before = Checkpoint(tmp_path / "run").counters()
    seen: list[Any] = []

    def extend(run: Any, run_cls: Any) -> Any:
        seen.append((run.epoch, run.agent.updates, len(run.memory), run.total_samples))
        run.epochs = 4
        return run

    Trainer(make_saved(memory_cls), **options, updater_fn=extend).run()
    after = Checkpoint(tmp_path / "run").counters()
    assert seen[0][:2] == (2, 6)
    assert seen[0][2] > 0
    assert seen[0][3] == before["total_samples"]
    assert (after["epoch"], after["total_updates"]) == (4, 12)
    Trainer(make_saved(memory_cls, epochs=4), **options).run()
    assert Checkpoint(tmp_path / "run").counters() == after


def test_an_agent_that_cannot_be_saved_is_told_before_anything_is_trained(tmp_path: Path) -> None:
    trainer = Trainer(make_training(), checkpoint_path=tmp_path / "run", source=make_source())
    with pytest.raises(TypeError, match=r"but agent\.actor is a CountingActor; .* name it in not_saved"):
        trainer.run()


def test_a_memory_that_cannot_be_saved_is_told_when_its_first_samples_are_there(tmp_path: Path) -> None:
    class Opaque(ListMemory):
        def append_buffer(self, buffer: Any) -> Any:
            super().append_buffer(buffer)
            self.data[5] = [object() for _ in self.data[5]]

    seen: list[int] = []
    training_cls = make_saved(Opaque, steps=1000, on_update=lambda run, _: seen.append(run.total_updates))
    trainer = Trainer(training_cls, checkpoint_path=tmp_path / "run", source=make_source())
    with pytest.raises(TypeError, match=r"but memory\.data\[5\]\[0\] is a object"):
        trainer.run()
    assert len(seen) == 0


def test_epochs_can_be_iterated_and_checkpoints_be_rarer(tmp_path: Path) -> None:
    checkpoints = Checkpoints()
    epochs = iterate_epochs(
        make_training(epochs=float("inf")),
        make_source(),
        tmp_path / "run",
        checkpoints.dump,
        checkpoints.load,
        epochs_between_checkpoints=2,
    )
    results = list(itertools.islice(epochs, 6))
    assert [rounds[0]["loss"] for rounds in results] == [2, 5, 8, 11, 14, 17]
    assert checkpoints.dumped == [0, 2, 4]


def test_one_checkpoint_function_without_the_other_is_refused(tmp_path: Path) -> None:
    match = "dump_run_instance_fn and load_run_instance_fn must be given both or neither, got one"
    with pytest.raises(ValueError, match=match):
        Trainer(
            make_training(),
            checkpoint_path=tmp_path / "run",
            dump_run_instance_fn=Checkpoints().dump,
            source=make_source(),
        )
    with pytest.raises(ValueError, match="epochs_between_checkpoints must be at least 1, got 0"):
        next(iterate_epochs(make_training(), make_source(), epochs_between_checkpoints=0))


def test_arguments_of_the_old_transport_are_ignored_with_one_warning() -> None:
    with pytest.warns(
        UserWarning, match="Trainer ignores password, security: .* use credential= instead"
    ) as caught:
        Trainer(make_training(), password="p", security="TLS", source=make_source())
    assert [warning.filename for warning in caught] == [__file__]


def test_wandb_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    trainer = Trainer(make_training(), source=make_source())
    with pytest.raises(
        ImportError, match=r'needs wandb, which is not installed; pip install "tmrl-memory\[wandb\]"'
    ):
        trainer.run_with_wandb("entity", "project", "run")


def test_every_round_is_logged_to_wandb(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the service, which tests must not call."""
    calls: list[Any] = []

    class Run:
        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            calls.append("finish")

        def log(self, metrics: Any) -> None:
            calls.append(metrics["loss"])

    def init(**options: Any) -> Run:
        calls.append(options)
        return Run()

    def login(*, key: str) -> None:
        calls.append(key)

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(login=login, init=init))
    Trainer(make_training(rounds=2), source=make_source()).run_with_wandb("e", "p", "r", key="k")
    options = {"entity": "e", "project": "p", "id": "r", "resume": "allow"}
    assert calls == ["k", options, 2.0, 5.0, 8.0, 11.0, "finish"]
