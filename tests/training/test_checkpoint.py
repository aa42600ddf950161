"""A training that was saved and loaded is the one that never stopped, whatever happens to the files."""

import functools
import json
import os
import pickle
import random
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from damage import damage
from dummies import CountingActor, CountingAgent, CountingEnv, ListMemory
from nests import is_identical
from tmrl.agents import SACAgent
from tmrl.errors import DatasetError, SchemaError
from tmrl.memory import ReplayMemory
from tmrl.networking import Buffer, RolloutWorker
from tmrl.training import Checkpoint, TorchTrainingOffline, TrainingOffline, WorkerSource
from tmrl.transition import Sample, Stamp

SPACES = (CountingEnv.observation_space, CountingEnv.action_space)
MEMORIES = {
    "ReplayMemory": functools.partial(ReplayMemory, batch_size=8, memory_size=600, seed=3),
    "own": functools.partial(ListMemory, batch_size=8),
}


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Networks this small are slow on several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Stream:
    """Samples that depend only on how many were asked for, from workers in turn, `per_call` at a time."""

    def __init__(self, per_call: int = 7, start: int = 0, n_workers: int = 1) -> None:
        self.n_workers = n_workers
        self.per_call = per_call
        self.next = start

    def retrieve_buffer(self) -> Buffer:
        buffer = Buffer()
        for i in range(self.next, self.next + self.per_call):
            step, worker = divmod(i, self.n_workers)
            episode, episode_step = divmod(step, 9)
            rng = np.random.default_rng(i)
            act = None if episode_step == 0 else rng.uniform(-1, 1, 1).astype(np.float32)
            obs = rng.standard_normal(2).astype(np.float32)
            values = (act, obs, float(rng.random()), episode_step == 8, False, {})
            buffer.memory.append(Sample(values, Stamp(f"w{worker}", 1, step, episode, episode_step)))
        buffer.stat_train_return = float(self.next)
        self.next += self.per_call
        return buffer

    def broadcast_model(self, actor: Any) -> None: ...


class Recorded(SACAgent):
    """Notes the batches; not a part of what is saved."""

    not_saved = ("batches",)

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments, hidden=(16,))
        self.batches: list[Any] = []

    def train(self, batch: Any) -> Any:
        self.batches.append([part.clone().numpy() for part in batch])
        return super().train(batch)


def make(memory: str = "ReplayMemory", **options: Any) -> Any:
    return TorchTrainingOffline(
        SPACES,
        MEMORIES[memory],
        Recorded,
        **{
            "epochs": 2,
            "rounds": 4,
            "steps": 25,
            "start_training": 20,
            "device": "cpu",
            "update_buffer_interval": 5,
            "update_model_interval": 10,
            **options,
        },
    )


class Stop(Exception):
    pass


def stop_at(update: int, checkpoint: Checkpoint) -> Any:
    def on_update(run: Any, _: Any) -> None:
        if run.total_updates == update:
            checkpoint.save(run, {"update": update})
            raise Stop

    return on_update


def train(run: Any, source: Stream) -> Any:
    while run.epoch < run.epochs:
        run.run_epoch(source)
    return run


def seed_all(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002


def facts(run: Any) -> Any:
    counters = (run.epoch, run.round, run.step, run.total_updates, run.total_samples)
    adams = [run.agent._critic_adam, run.agent._policy_adam, run.agent._temperature_adam]
    tensors = [
        *run.agent.actor.state_dict().values(),
        *run.agent.target_critics.state_dict().values(),
        run.agent.log_temperature.detach(),
        *(part for adam in adams for state in adam.state_dict()["state"].values() for part in state.values()),
        torch.get_rng_state(),
    ]
    return counters, random.getstate(), run.memory.stat_train_return, [t.numpy().tobytes() for t in tensors]


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("stop", [1, 37, 50, 100, 131])
def test_stop_and_go_on_is_the_same_as_not_having_stopped(memory: str, stop: int, tmp_path: Path) -> None:
    """B48: to the bit, weights, optimisers, counters, batches; mid-round, between rounds, between epochs."""
    seed_all(0)
    n_workers = 2 if memory == "ReplayMemory" else 1
    whole = train(make(memory), Stream(n_workers=n_workers))
    expected = facts(whole)

    seed_all(0)
    source, checkpoint = Stream(n_workers=n_workers), Checkpoint(tmp_path)
    first = make(memory, on_update=stop_at(stop, checkpoint))
    with pytest.raises(Stop):
        train(first, source)
    seed_all(99)
    second = make(memory)
    assert checkpoint.load(second) == {"update": stop}
    train(second, source)
    assert is_identical(facts(second), expected)
    assert is_identical(first.agent.batches + second.agent.batches, whole.agent.batches)


def test_two_thousand_updates_with_many_stops_are_those_without(tmp_path: Path) -> None:
    options: Any = {"rounds": 8, "steps": 250, "epochs": 1}
    seed_all(0)
    expected = facts(train(make(**options), Stream()))
    seed_all(0)
    source, checkpoint = Stream(), Checkpoint(tmp_path)
    run = make(**options)
    for stop in (1, 300, 777, 1250, 1999):
        run.on_update = stop_at(stop, checkpoint)
        with pytest.raises(Stop):
            train(run, source)
        run = make(**options)
        checkpoint.load(run)
    assert facts(train(run, source)) == expected


def test_a_new_batch_size_and_memory_size_take_effect(tmp_path: Path) -> None:
    """B51, B53: what the training is made with now wins."""
    run = make(epochs=1)
    train(run, Stream())
    Checkpoint(tmp_path).save(run)
    smaller = functools.partial(ReplayMemory, batch_size=3, memory_size=50, contiguous=True)
    resumed = TorchTrainingOffline(SPACES, smaller, Recorded, steps=25, epochs=2, rounds=1, device="cpu")
    Checkpoint(tmp_path).load(resumed)
    assert (resumed.memory.memory_size, resumed.memory.batch_size, resumed.memory.contiguous) == (50, 3, True)
    assert 0 < len(resumed.memory) <= 50
    assert is_identical(resumed.memory.get_transition(-1), run.memory.get_transition(-1))
    train(resumed, Stream(start=1000))
    assert {len(batch[0]) for batch in resumed.agent.batches} == {3}


def test_updates_stay_bounded_by_samples_after_a_resume(tmp_path: Path) -> None:
    """B58: no burst of updates for samples that were used before, and none for those that were lost."""
    ratios: list[float] = []
    options: Any = {"max_training_steps_per_env_step": 0.5, "epochs": 3, "update_buffer_interval": 1000}
    run = make(**options)
    run.run_epoch(Stream(4))
    Checkpoint(tmp_path).save(run)
    run.run_epoch(Stream(4, start=run.total_samples))  # lost: the process is killed before the next save
    resumed = make(**options)
    resumed.on_update = lambda run, _: ratios.append(run.total_updates / run.total_samples)
    Checkpoint(tmp_path).load(resumed)
    assert resumed.total_samples >= 2 * resumed.total_updates - 4
    source = Stream(4, start=10_000)
    resumed.run_epoch(source)
    assert max(ratios) <= 0.5 + 1 / resumed.total_samples * 4
    assert (source.next - 10_000) >= 2 * 100 - 8


def test_no_transition_joins_the_two_sides_of_a_resume(tmp_path: Path) -> None:
    """B09: the environment starts afresh; the worker's new stream begins with a reset."""

    def resumed_run(length: int) -> Any:
        worker = RolloutWorker(
            lambda: CountingEnv(length=length), CountingActor, standalone=True, worker_id="w"
        )
        memory_cls = functools.partial(ReplayMemory, batch_size=4)
        run = TrainingOffline(SPACES, memory_cls, SilentAgent, rounds=1, steps=9, epochs=9, device="cpu")
        return run, WorkerSource(worker, steps_per_retrieval=5)

    run, source = resumed_run(100)
    run.run_epoch(source)
    assert source.worker.is_episode_open
    Checkpoint(tmp_path).save(run)
    before = len(run.memory)
    run, source = resumed_run(3)
    Checkpoint(tmp_path).load(run)
    run.run_epoch(source)
    pairs = [run.memory.get_transition(i) for i in range(len(run.memory))]
    assert all((new[1], new[0]) == (prev[1] + 1, prev[0]) for prev, _, _, new, *_ in pairs)
    assert pairs[before][0][1] == 0.0
    assert run.memory.stats().workers["w"].gaps == 0


class SilentAgent(CountingAgent):
    not_saved = ("batches", "actor")


def test_saving_again_writes_only_what_is_new(tmp_path: Path) -> None:
    run = make(epochs=1)
    train(run, Stream())
    checkpoint = Checkpoint(tmp_path)
    checkpoint.save(run)
    before = {file.name for file in tmp_path.iterdir()}
    run.update_buffer(Stream(start=run.total_samples))
    checkpoint.save(run)
    after = {file.name for file in tmp_path.iterdir()}
    assert len(list(tmp_path.glob("*.state.safetensors"))) == 1
    new = [np.load(tmp_path / name).shape[0] for name in after - before if name.endswith("rows.npy")]
    assert sum(new) <= 7 + 19
    resumed = make(epochs=1)
    checkpoint.load(resumed)
    resumed.update_buffer(Stream(start=resumed.total_samples))
    kept = {file.name for file in tmp_path.glob("*.npy")}
    checkpoint.save(resumed)
    assert len(kept & {file.name for file in tmp_path.glob("*.npy")}) >= len(kept) - 2


class FullDisk:
    """Lets so many writes reach the disk, or take the place of a file, and fails those that follow."""

    def __init__(self, n_calls: int, patch: pytest.MonkeyPatch) -> None:
        self.left = n_calls
        patch.setattr(os, "fsync", self.limited(os.fsync))
        patch.setattr(Path, "replace", self.limited(Path.replace))

    def limited(self, function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise OSError(28, "No space left on device")
            return function(*arguments)

        return call


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("is_first", [True, False])
def test_a_save_that_fails_anywhere_leaves_the_checkpoint_that_was_there(
    memory: str, is_first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, run, source = Checkpoint(tmp_path), make(memory, epochs=1), Stream()
    if not is_first:
        run.update_buffer(source)
        checkpoint.save(run)
    train(run, source)
    expected = {run.total_samples} if is_first else {7, run.total_samples}
    n_calls, is_saved = 0, False
    while not is_saved:
        with monkeypatch.context() as patch, suppress(OSError):
            FullDisk(n_calls, patch)
            checkpoint.save(run)
            is_saved = True
        if checkpoint.exists:
            resumed = make(memory)
            checkpoint.load(resumed)
            assert resumed.total_samples in expected
        n_calls += 1
    assert n_calls > 4
    assert resumed.total_samples == run.total_samples
    assert len(list(tmp_path.glob("*.state.safetensors"))) == 1


def saved(folder: Path, memory: str = "ReplayMemory") -> Any:
    run = make(memory, epochs=1)
    train(run, Stream())
    Checkpoint(folder).save(run)
    return run


@pytest.mark.parametrize("memory", MEMORIES)
def test_one_flipped_bit_or_a_cut_file_is_reported(memory: str, tmp_path: Path) -> None:
    saved(tmp_path / "good", memory)
    rng = np.random.default_rng(0)
    for case in range(40):
        folder = tmp_path / str(case)
        shutil.copytree(tmp_path / "good", folder)
        entries = sorted(folder.iterdir())
        file = entries[case % len(entries)]
        damaged = damage(file, rng, is_cut=case % 4 == 0)
        # Space between the values of a manifest says nothing.
        if file.suffix != ".json" or not is_same_json(damaged, tmp_path / "good" / file.name):
            with pytest.raises(DatasetError, match=re.escape(str(folder))):
                Checkpoint(folder).load(make(memory))
        shutil.rmtree(folder)


def is_same_json(document: bytes, file: Path) -> bool:
    try:
        return json.loads(document) == json.loads(file.read_bytes())
    except ValueError:
        return False


class Trap:
    def __reduce__(self) -> Any:
        return Path("trapped").touch, ()


def test_a_pickle_in_place_of_a_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "good")
    for file in sorted((tmp_path / "good").iterdir()):
        folder = tmp_path / "bad"
        shutil.copytree(tmp_path / "good", folder)
        (folder / file.name).write_bytes(pickle.dumps(Trap()))
        with pytest.raises(DatasetError, match=f"{file.name} is damaged"):
            Checkpoint(folder).load(make())
        shutil.rmtree(folder)
    assert not Path("trapped").exists()


def test_a_checkpoint_can_be_moved(tmp_path: Path) -> None:
    saved(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    resumed = make()
    Checkpoint(tmp_path / "there").load(resumed)
    assert resumed.total_updates == 100


class Unsavable(Recorded):
    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.scale = lambda x: x


def test_what_an_agent_cannot_save_is_named_with_the_remedy(tmp_path: Path) -> None:
    run = TorchTrainingOffline(SPACES, MEMORIES["own"], Unsavable, device="cpu")
    match = r"but agent\.scale is a lambda; for an attribute .* name it in not_saved, else define state_dict"
    for act in (Checkpoint(tmp_path).check, Checkpoint(tmp_path).save):
        with pytest.raises(TypeError, match=match):
            act(run)
    assert not Checkpoint(tmp_path).exists


def test_what_a_memory_cannot_save_is_named_with_its_place(tmp_path: Path) -> None:
    run = make("own")
    run.memory.data = [[1, 2], [np.zeros(2), object()]]
    with pytest.raises(TypeError, match=r"but memory\.data\[1\]\[1\] is a object"):
        Checkpoint(tmp_path).save(run)


class Ring(ListMemory):
    """Has a state of its own beside `data`."""

    cursor = 0

    def state_dict(self) -> Any:
        return {"data": self.data, "cursor": self.cursor}

    def load_state_dict(self, state: Any) -> None:
        self.data, self.cursor = state["data"], state["cursor"]


def test_a_memory_may_say_itself_what_is_saved(tmp_path: Path) -> None:
    run = TorchTrainingOffline(SPACES, Ring, Recorded, device="cpu")
    run.memory.cursor = 5
    Checkpoint(tmp_path).save(run)
    resumed = TorchTrainingOffline(SPACES, Ring, Recorded, device="cpu")
    Checkpoint(tmp_path).load(resumed)
    assert resumed.memory.cursor == 5


class Stored(ListMemory):
    """Stands for a memory that lives in a file."""

    def __init__(self, storage_path: Path, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.storage_path = storage_path
        self.flushes = 0

    def flush(self) -> None:
        self.flushes += 1


def test_a_memory_in_a_file_is_only_referred_to(tmp_path: Path) -> None:
    def stored(path: Path) -> Any:
        return TorchTrainingOffline(SPACES, functools.partial(Stored, path), Recorded, device="cpu")

    run = stored(tmp_path / "run" / "memory")
    run.memory.data = [object()]
    Checkpoint(tmp_path / "run" / "checkpoint").save(run)
    assert run.memory.flushes == 1
    (tmp_path / "run").rename(tmp_path / "moved")
    Checkpoint(tmp_path / "moved" / "checkpoint").load(stored(tmp_path / "moved" / "memory"))
    with pytest.raises(
        DatasetError, match=r"memory stored in .*memory, got one stored in .*other; give that"
    ):
        Checkpoint(tmp_path / "moved" / "checkpoint").load(stored(tmp_path / "other"))


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(
        DatasetError, match="a ReplayMemory in RAM, got one of your own; make the training as"
    ):
        Checkpoint(tmp_path).load(make("own"))
    other = TorchTrainingOffline(SPACES, MEMORIES["ReplayMemory"], SACAgent, device="cpu")
    with pytest.raises(DatasetError, match="must hold the state of a SACAgent made like this one, but"):
        Checkpoint(tmp_path).load(other)
    checking = functools.partial(ReplayMemory, crc_debug=True, info_keys=("success",))
    other = TorchTrainingOffline(SPACES, checking, Recorded, device="cpu")
    with pytest.raises(SchemaError, match=r"info_keys: expected \['success'\], found \[\]; make the memory"):
        Checkpoint(tmp_path).load(other)


def test_other_folders_are_refused_and_left_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"holds no manifest\.json"):
        Checkpoint(tmp_path / "none").load(make())
    memory = ReplayMemory()
    memory.save(tmp_path / "memory")
    for act in (Checkpoint(tmp_path / "memory").save, Checkpoint(tmp_path / "memory").load):
        with pytest.raises(DatasetError, match="must be the folder of a checkpoint, but holds a snapshot"):
            act(make())
    ReplayMemory.load(tmp_path / "memory")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("years of work")
    with pytest.raises(DatasetError, match=r"holds 'thesis\.tex'; choose another folder"):
        Checkpoint(tmp_path / "thesis").save(make())
    assert [file.name for file in (tmp_path / "thesis").iterdir()] == ["thesis.tex"]


def test_random_states_of_gpus_are_saved_and_set_as_far_as_there_are_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for the GPUs, of which there are fewer when the run goes on."""
    states = [torch.arange(3, dtype=torch.uint8), torch.arange(5, dtype=torch.uint8)]
    run, found = make(), []
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "get_rng_state_all", lambda: states)
        Checkpoint(tmp_path).save(run)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, i: found.append((i, state.tolist())))
    Checkpoint(tmp_path).load(run)
    assert found == [(0, [0, 1, 2])]
