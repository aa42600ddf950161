"""Histories end to end: worker, compressed rows, and the batch."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation

from makers import buffer_of, plain_episode, stamped
from tmrl.actor import ActorModule
from tmrl.datasets import export, open_dataset
from tmrl.errors import BadSampleError, DatasetError, HistoryError, IntegrityError, SchemaError
from tmrl.memory import FrameStack, History, Latest, NStep, Quantized, ReplayMemory, Sequence, Stacked
from tmrl.networking import RolloutWorker

STACK = History(Stacked(4))


class Images(gymnasium.Env[Any, Any]):
    """Sees random images, as bytes or as floats in [0, 1]."""

    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, as_floats: bool = False, size: int = 12) -> None:
        kind = np.float32 if as_floats else np.uint8
        self.observation_space = spaces.Box(0, 1 if as_floats else 255, (size, size), kind)
        self.rng = np.random.default_rng(0)
        self.step_number = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.step_number = 0
        return self.image(), {}

    def step(self, action: Any) -> Any:
        self.step_number += 1
        return self.image(), 1.0, self.step_number == 7, False, {}

    def image(self) -> Any:
        shape = self.observation_space.shape
        if self.observation_space.dtype == np.float32:
            return self.rng.random(shape, np.float32)
        return self.rng.integers(0, 256, shape, np.uint8)


class Random(ActorModule):
    def act(self, obs: Any, test: bool = False) -> Any:
        return self.action_space.sample()


def stacks(**kwargs: Any) -> Any:
    return FrameStackObservation(Images(**kwargs), 4)


def collected(history: History | None, n_steps: int = 40, crc_debug: bool = True, **kwargs: Any) -> Any:
    """What a worker sends of so many steps; the same images and actions each time."""
    with RolloutWorker(
        lambda: stacks(**kwargs),
        Random,
        standalone=True,
        crc_debug=crc_debug,
        worker_id="eye",
        history=history,
    ) as worker:
        worker.env.action_space.seed(0)
        worker.collect_steps(n_steps)
        return worker.buffer


def memory_of(buffer: Any, **kwargs: Any) -> ReplayMemory:
    memory = ReplayMemory(**{"batch_size": 32, "seed": 0, "history": STACK, "crc_debug": True, **kwargs})
    memory.append(buffer)
    return memory


def everything(memory: ReplayMemory) -> Any:
    return memory.take(range(len(memory)))


WINDOWS = [None, FrameStack(2), NStep(3, 0.9), NStep(2, 0.9, FrameStack(2)), Sequence(4, stride=2)]


@pytest.mark.parametrize("window", WINDOWS)
def test_image_stacks_come_back_as_the_actor_saw_them(window: Any) -> None:
    """Compared with a memory that stores the whole stacks, and by the worker's checksums."""
    whole = everything(memory_of(collected(None), history=None, window=window))
    rebuilt = everything(memory_of(collected(STACK), window=window))
    n = len(whole.rew)
    assert len(rebuilt.rew) == n
    is_step = torch.ones(n, dtype=torch.bool) if whole.mask is None else whole.mask.bool()
    for one, other in zip(whole, rebuilt, strict=True):
        assert one.shape == other.shape
        assert torch.equal(one[is_step], other[is_step])


def test_four_stacked_frames_cost_one_frame_a_row() -> None:
    memory = memory_of(collected(STACK, size=84, crc_debug=False), crc_debug=False)
    assert memory.schema is not None
    assert memory.schema.row_dtype.itemsize < 84 * 84 + 32
    assert memory.sample().prev_obs.shape == (32, 4, 84, 84)


def test_stacks_are_views_and_quantized_images_are_copies() -> None:
    batch = memory_of(collected(STACK)).sample()
    assert not batch.prev_obs.is_contiguous()
    batch = memory_of(collected(History(Quantized()), as_floats=True), history=History(Quantized())).sample()
    assert batch.prev_obs.dtype == torch.float32


def test_float_images_come_back_rounded_and_checksums_agree() -> None:
    history = History(Stacked(4, Quantized()))
    whole = everything(memory_of(collected(None, as_floats=True), history=None))
    memory = memory_of(collected(history, as_floats=True), history=history)
    found = everything(memory)
    assert memory.stats().crc_checked == 40
    assert memory.schema is not None
    assert [str(leaf) for leaf in memory.schema.obs.leaves] == ["uint8 of shape (12, 12)"]
    expected = (whole.prev_obs.numpy().astype(np.float64) * 255).round().astype(np.float32) / np.float32(255)
    assert found.prev_obs.numpy().tobytes() == expected.tobytes()


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("history", [STACK, History(Stacked(4, Quantized()))])
def test_one_flipped_bit_of_a_stored_frame_is_found(window: Any, history: History) -> None:
    memory = memory_of(collected(history, as_floats=history != STACK), history=history, window=window)
    everything(memory)
    assert memory._store is not None
    memory._store.ring.rows["obs"][5, 3, 3] ^= 1
    with pytest.raises(IntegrityError, match=r"obs of step [5678] \(episode 0\) of worker 'eye' is not what"):
        everything(memory)
    with pytest.raises(IntegrityError, match="is not what the worker saw"):
        [memory[i] for i in range(len(memory))]


def test_single_transitions_are_the_documented_seven() -> None:
    buffer = collected(STACK)
    memory = memory_of(buffer)
    prev_obs, _, rew, new_obs, terminated, truncated, info = memory.get_transition(3)
    assert (prev_obs.shape, prev_obs.dtype, type(rew)) == ((4, 12, 12), np.uint8, np.float32)
    assert (prev_obs[1:] == new_obs[:-1]).all()
    assert (terminated, truncated) == (False, False)
    assert info["crc"] == buffer.memory[4][5]["crc"]
    checked = memory.crc_checked
    assert len(memory[3]) == 6
    assert memory.crc_checked == checked + 1
    memory.sample_preprocessor = lambda *six: six
    assert memory.sample().prev_obs.shape == (32, 4, 12, 12)


def test_a_memory_goes_on_with_its_history_after_a_load(tmp_path: Any) -> None:
    memory = memory_of(collected(STACK))
    memory.save(tmp_path)
    loaded = ReplayMemory.load(tmp_path)
    assert loaded.history == STACK
    assert torch.equal(memory.sample().prev_obs, loaded.sample().prev_obs)


def test_a_memory_in_a_folder_needs_the_history_that_it_was_made_with(tmp_path: Any) -> None:
    with memory_of(collected(STACK), storage_path=tmp_path) as memory:
        expected = everything(memory).prev_obs.clone()
    with pytest.raises(SchemaError, match="history: expected None, found History"):
        ReplayMemory(storage_path=tmp_path, crc_debug=True)
    with ReplayMemory(storage_path=tmp_path, crc_debug=True, history=STACK) as memory:
        assert torch.equal(everything(memory).prev_obs, expected)


def test_a_dataset_holds_compressed_rows_and_says_so(tmp_path: Any) -> None:
    memory = memory_of(collected(STACK))
    memory.save(tmp_path / "memory")
    export(tmp_path / "memory", tmp_path / "data")
    again = ReplayMemory(history=STACK, dataset_path=tmp_path / "data")
    assert torch.equal(everything(again).prev_obs, everything(memory).prev_obs)
    assert open_dataset(tmp_path / "data").schema.history == STACK
    with pytest.raises(DatasetError, match=r"the dataset must have the history None, .* got History"):
        ReplayMemory(dataset_path=tmp_path / "data")


class TestRefusals:
    def test_the_space_is_that_of_whole_observations(self) -> None:
        space = stacks().observation_space
        memory = memory_of(collected(STACK), observation_space=space)
        assert memory.sample().prev_obs.shape == (32, 4, 12, 12)
        with pytest.raises(HistoryError, match=r"obs must hold 3 frames .* got shape \(4, 12, 12\)"):
            ReplayMemory(observation_space=space, history=History(Stacked(3)))

    def test_whole_observations_are_refused_where_the_space_is_known(self) -> None:
        memory = ReplayMemory(observation_space=stacks().observation_space, history=STACK)
        with pytest.raises(
            BadSampleError, match=r"expected uint8 of shape \(12, 12\) .* found .*\(4, 12, 12\)"
        ):
            memory.append(collected(None))

    def test_floats_where_the_history_keeps_integers_are_refused(self) -> None:
        memory = ReplayMemory(history=History(Quantized()))
        for samples in (plain_episode(3), plain_episode(0)):
            with pytest.raises(
                HistoryError, match=r"obs must be uint8, .* got float32 of shape \(1,\); give the"
            ):
                memory.append(buffer_of(stamped(samples)))
        assert len(memory) == 0

    def test_another_nest_is_refused_at_the_door(self) -> None:
        with pytest.raises(HistoryError, match="obs is one array, but the spec"):
            ReplayMemory(history=History((Latest(),))).append(buffer_of(plain_episode(3)))


def test_the_users_own_compressor_goes_on_working() -> None:
    """Without a history a worker sends what the compressor returns."""
    with RolloutWorker(
        stacks, Random, lambda act, obs, *others: (act, obs[-1], *others), standalone=True
    ) as worker:
        worker.collect_steps(10)
        memory = ReplayMemory(window=FrameStack(4))
        memory.append(worker.buffer)
    assert everything(memory).prev_obs.shape == (10, 4, 12, 12)
