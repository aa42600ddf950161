"""Memories written against the documented interface run unchanged, alone and in the real pipeline."""

import pickle
import random

import numpy as np
import pytest
import torch

from tmrl.actor import ActorModule
from tmrl.errors import ContractError, IntegrityError
from tmrl.networking import Buffer, RolloutWorker
from tmrl.testing import check_memory
from tmrl.training import TrainingAgent, WorkerSource
from tmrl.training_offline import TorchTrainingOffline
from tmrl.util import partial
from user_memories import ColumnsMemory, FramesEnv, FramesMemory, WindowsMemory, compress_frames


@pytest.fixture(autouse=True)
def seeded():
    random.seed(0)


class RandomActor(ActorModule):
    """Acts at random, from a seed of its own."""

    def __init__(self, observation_space, action_space):
        super().__init__(observation_space, action_space)
        self.rng = np.random.default_rng(0)

    def act(self, obs, test=False):
        return self.rng.uniform(-1, 1, self.action_space.shape).astype(np.float32)


def frames_worker(**kwargs):
    return RolloutWorker(FramesEnv, RandomActor, standalone=True, worker_id="robot", **kwargs)


def collected(episodes=6, **kwargs):
    with frames_worker(**kwargs) as worker:
        for _ in range(episodes):
            worker.collect_train_episode()
        return worker.buffer


def plain_buffer(samples=20, fields=6):
    buffer = Buffer()
    for i in range(samples):
        sample = (np.float32([i]), np.float32([i, -i]), float(i), i % 5 == 4, False, {}, 0.5, float(i))
        buffer.memory.append(sample[:fields])
    return buffer


def test_columns_are_a_public_list_that_can_be_read_extended_and_pickled(tmp_path):
    memory = ColumnsMemory(batch_size=8, memory_size=15)
    memory.append(plain_buffer())
    assert len(memory) == 15
    assert memory.data[4] == [False] * 16
    assert memory.data[0][-1] == 19
    memory.data[0] += [np.float32([20])]
    assert memory.data[0][-1] == 20
    del memory.data[0][-1]
    (tmp_path / "data.pkl").write_bytes(pickle.dumps(memory.data))
    loaded = ColumnsMemory(batch_size=8, dataset_path=str(tmp_path))
    assert len(loaded) == 15
    loaded.append(plain_buffer(3))
    assert len(loaded) == 18
    assert loaded.sample()[3].shape == (8, 2)


def test_columns_never_give_a_transition_across_a_done():
    memory = ColumnsMemory(batch_size=64)
    memory.append(plain_buffer())
    prev_obs, _, rew, new_obs, terminated, _ = memory.sample()
    assert rew.dtype == torch.float64
    assert torch.equal(new_obs[:, 0], prev_obs[:, 0] + 1)
    assert set(prev_obs[:, 0].int().tolist()) <= {i for i in range(19) if i % 5 != 4}
    assert terminated.dtype == torch.float32


def test_frames_are_rebuilt_bit_by_bit_under_crc_debugging():
    memory = FramesMemory("cpu", 1, crc_debug=True, batch_size=100)
    memory.append(collected(crc_debug=True, sample_compressor=compress_frames))
    (speed, images, act), *_ = memory.sample()
    assert (speed.shape, images.shape, act.shape) == ((100, 1), (100, 4, 2, 3), (100, 2))
    assert images.dtype == torch.uint8
    assert memory.crc_checked == 100


def test_frames_that_are_rebuilt_wrongly_are_found_by_crc_debugging():
    class Wrong(FramesMemory):
        def observation(self, at):
            speed, images, act = super().observation(at)
            return speed, images[::-1], act

    memory = Wrong("cpu", 1, crc_debug=True)
    memory.append(collected(crc_debug=True, sample_compressor=compress_frames))
    with pytest.raises(
        IntegrityError, match=r"^(prev_)?obs/1.* of step \d+ \(episode \d+\) of worker 'robot'"
    ):
        memory.sample()


def test_older_crc_samples_are_understood():
    buffer = collected(crc_debug=True, crc_samples=True, sample_compressor=compress_frames)
    for sample in buffer.memory:
        del sample[5]["crc"]
    memory = FramesMemory("cpu", 1, crc_debug=True)
    memory.append(buffer)
    memory.sample()
    assert memory.crc_checked == 256


def test_windows_are_consecutive_samples_of_any_length():
    memory = WindowsMemory("cpu", 1, batch_size=8, memory_size=12)
    memory.append(plain_buffer(5, fields=8))
    assert memory.sample()["item"].tolist() == [[0, 1, 2, 3, 4]]
    memory.append(plain_buffer(20, fields=8))
    window = memory.sample()
    assert len(memory) == 12
    assert window["obs"].shape == (1, 8, 2)
    assert torch.equal(window["item"].diff(), torch.ones(1, 7, dtype=torch.int64))
    assert window["value"].dtype == torch.float64


def test_data_of_a_pickled_memory_is_reused_with_new_sizes():
    memory = ColumnsMemory(batch_size=8)
    memory.append(plain_buffer())
    again = pickle.loads(pickle.dumps(memory))
    again.batch_size, again.nb_steps, again.memory_size = 3, 2, 10
    assert [len(batch[2]) for batch in again] == [3, 3]
    again.append(plain_buffer(1))
    assert len(again) == 10


def test_append_can_be_replaced_on_the_class(monkeypatch):
    seen = []

    def append(self, buffer):
        seen.append(len(buffer))
        original(self, buffer)

    original = ColumnsMemory.append
    monkeypatch.setattr("tmrl.memory.torch_memory.TorchMemory.append", append, raising=True)
    memory = ColumnsMemory()
    memory.append(plain_buffer())
    assert seen == [20]
    assert len(memory) == 19


def test_check_memory_finds_what_memories_of_columns_are_known_for():
    """B09: it joins the open end of one worker's Buffer to the reset of the next one's."""
    with pytest.raises(
        ContractError, match=r"ColumnsMemory breaks .*\n- \d+ of \d+ transitions never happened"
    ):
        check_memory(ColumnsMemory(memory_size=40, batch_size=4))


def test_check_memory_passes_columns_whose_buffers_end_with_an_episode():
    cautions = check_memory(ColumnsMemory(memory_size=100, batch_size=4), collected())
    assert len(cautions) == 1
    assert "get_transition gives different transitions for one index" in cautions[0]


def test_check_memory_checks_rebuilt_frames_by_their_checksums():
    buffer = collected(crc_debug=True, sample_compressor=compress_frames)
    cautions = check_memory(FramesMemory("cpu", 1, memory_size=30, batch_size=4, crc_debug=True), buffer)
    assert len(cautions) == 1
    assert "different transitions for one index" in cautions[0]


def test_check_memory_says_what_it_could_not_check_of_windows():
    cautions = check_memory(WindowsMemory("cpu", 1, memory_size=30), plain_buffer(fields=8))
    assert cautions == ["get_transition is not implemented: no transition could be checked"]


class CountingAgent(TrainingAgent):
    """Learns nothing, but looks at every batch and sends policies."""

    def __init__(self, observation_space, action_space, device):
        super().__init__(observation_space, action_space, device)
        self.actor = RandomActor(observation_space, action_space)

    def train(self, batch):
        (_, images, _), new_act, rew, *_, terminated, truncated = batch
        assert images.shape == (16, 4, 2, 3)
        assert new_act.shape == (16, 2)
        assert rew.dtype == terminated.dtype == truncated.dtype == torch.float32
        return {"loss": float(rew.mean())}

    def get_actor(self):
        return self.actor


def test_memory_of_frames_is_trained_from_through_the_real_pipeline_with_crc_debugging():
    """B59: worker, compressor, source, loop, memory and agent together."""
    training = TorchTrainingOffline(
        env_cls=FramesEnv,
        memory_cls=partial(FramesMemory, memory_size=60, batch_size=16, crc_debug=True),
        training_agent_cls=CountingAgent,
        epochs=1,
        rounds=2,
        steps=10,
        update_model_interval=5,
        update_buffer_interval=2,
        start_training=30,
        sleep_between_buffer_retrieval_attempts=0.0,
        device="cpu",
    )
    worker = frames_worker(crc_debug=True, sample_compressor=compress_frames)
    with WorkerSource(worker, steps_per_retrieval=10) as source:
        rounds = training.run_epoch(source)
    assert len(rounds) == 2
    assert training.memory.crc_checked == 20 * 16
    assert len(training.memory) == 60
    assert worker.policy_version == 4
    assert np.isfinite(rounds[-1]["loss"])
