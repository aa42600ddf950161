"""ReplayMemory through its public interface."""

import gc
import threading
from dataclasses import replace
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from makers import buffer_of, plain_episode, stamped
from nests import SampleMaker, is_identical, makers
from tmrl.errors import BadSampleError, EmptyMemoryError, SchemaError
from tmrl.memory import Batch, Memory, ReplayMemory, TorchMemory
from tmrl.networking import Buffer


def filled(length: int = 20, **kwargs: Any) -> ReplayMemory:
    """A memory with one terminated episode."""
    memory = ReplayMemory(**{"batch_size": 8, "seed": 0, **kwargs})
    memory.append(buffer_of(plain_episode(length)))
    return memory


def drawn_numbers(memory: ReplayMemory, draws: int = 50) -> set[int]:
    """The numbers of all samples that some draws ended in."""
    return {int(n) for _ in range(draws) for n in memory.sample().new_obs[:, 0]}


def all_numbers(memory: ReplayMemory) -> list[int]:
    return [int(memory.get_transition(i)[3][0]) for i in range(len(memory))]


class TestInterface:
    def test_memory_is_ready_to_use_without_arguments(self) -> None:
        memory = ReplayMemory()
        assert isinstance(memory, TorchMemory)
        assert isinstance(memory, Memory)
        assert (memory.memory_size, memory.batch_size, memory.nb_steps, len(memory)) == (1_000_000, 256, 1, 0)

    def test_batch_is_a_tuple_of_exactly_six_with_attributes(self) -> None:
        batch = filled().sample()
        assert isinstance(batch, tuple)
        prev_obs, new_act, rew, new_obs, terminated, truncated = batch
        assert isinstance(batch, Batch)
        assert batch.prev_obs is prev_obs
        assert torch.equal(new_obs, prev_obs + 1)
        assert torch.equal(new_act, -new_obs)
        assert torch.equal(rew, new_obs[:, 0])
        for dense in (rew, terminated, truncated, batch.weights):
            assert dense.dtype == torch.float32
            assert dense.shape == (8,)
            assert dense.is_contiguous()
        assert torch.equal(terminated, (new_obs[:, 0] == 20).float())
        assert not truncated.any()
        assert torch.equal(batch.weights, torch.ones(8))
        assert batch.ids.tolist() == [int(n) for n in new_obs[:, 0]]
        assert batch.info == {}

    def test_iteration_yields_nb_steps_batches_and_sees_what_is_appended_meanwhile(self) -> None:
        memory = filled(nb_steps=3)
        iterator = iter(memory)
        next(iterator)
        memory.append(buffer_of(plain_episode(20, first=100)))
        assert len(memory) == 40
        assert len(list(iterator)) == 2

    def test_empty_memory_says_what_to_do(self) -> None:
        with pytest.raises(
            EmptyMemoryError, match="cannot draw 256 transitions: the memory holds 0; append a Buffer first"
        ):
            ReplayMemory().sample()

    def test_memory_of_only_a_reset_holds_no_transition(self) -> None:
        memory = filled()
        memory = ReplayMemory(
            observation_space=gym.spaces.Box(0, 1, (1,)), action_space=gym.spaces.Discrete(2)
        )
        memory.append(buffer_of([(None, np.zeros(1, np.float32), 0.0, False, False, {})]))
        with pytest.raises(EmptyMemoryError, match="the memory holds 0"):
            memory.sample()

    @pytest.mark.parametrize("index", [20, -21, 10**9])
    def test_index_out_of_range_is_refused(self, index: int) -> None:
        memory = filled()
        with pytest.raises(IndexError, match=f"transition {index} is out of range: the memory holds 20"):
            memory[index]
        with pytest.raises(IndexError, match="out of range"):
            memory.take([index])

    def test_batch_of_no_transitions_is_refused(self) -> None:
        with pytest.raises(ValueError, match="indices must name at least 1 transition, got none"):
            filled().take([])

    def test_negative_index_counts_from_the_newest(self) -> None:
        assert filled().get_transition(-1)[3] == 20

    @pytest.mark.parametrize(("name", "value"), [("memory_size", 0), ("batch_size", 0), ("nb_steps", -1)])
    def test_sizes_below_one_are_refused(self, name: str, value: int) -> None:
        with pytest.raises(ValueError, match=f"{name} must be at least 1.*got {value}"):
            ReplayMemory(**{name: value})

    def test_names_must_not_be_a_bare_string(self) -> None:
        with pytest.raises(TypeError, match="info_keys and finite must be tuples of names"):
            ReplayMemory(info_keys="success")

    def test_empty_buffer_changes_nothing(self) -> None:
        memory = filled()
        memory.sample()
        unknown = {"age_s_p50": 0.0, "age_s_p95": 0.0, "policy_lag_p50": 0.0, "policy_lag_p95": 0.0}
        before = replace(memory.stats(), **unknown)
        empty = Buffer()
        empty.stat_train_return = 7.0
        memory.append(empty)
        assert replace(memory.stats(), **unknown) == before
        assert memory.stat_train_return == 0.0

    def test_statistics_of_the_buffer_are_taken_over(self) -> None:
        memory = ReplayMemory()
        buffer = buffer_of(plain_episode(3))
        buffer.stat_train_return, buffer.stat_test_steps = 5.0, 9
        memory.append(buffer)
        assert (memory.stat_train_return, memory.stat_test_steps) == (5.0, 9)

    def test_duck_typed_buffer_is_enough(self) -> None:
        class Duck:
            memory = plain_episode(3)
            stat_train_return = stat_test_return = 0.0
            stat_train_steps = stat_test_steps = 0

            def __len__(self) -> int:
                return len(self.memory)

        memory = ReplayMemory()
        memory.append(Duck())  # pyright: ignore[reportArgumentType]
        assert len(memory) == 3


class TestSchema:
    def test_first_buffer_of_one_reset_sample_waits_for_an_action(self) -> None:
        """A first buffer of one sample does not disable the memory."""
        memory = ReplayMemory(batch_size=4, seed=0)
        episode = stamped(plain_episode(5))
        for sample in episode:
            memory.append(buffer_of([sample]))
        assert all_numbers(memory) == [1, 2, 3, 4, 5]
        assert memory.stats().appended == 6

    def test_waiting_reset_is_copied(self) -> None:
        """B39: what is appended may be changed by its owner afterwards."""
        memory = ReplayMemory()
        episode = stamped(plain_episode(1))
        memory.append(buffer_of(episode[:1]))
        episode[0][1][:] = 99
        memory.append(buffer_of(episode[1:]))
        assert memory.get_transition(0)[0] == 0

    def test_waiting_resets_must_agree(self) -> None:
        memory = ReplayMemory()
        memory.append(buffer_of([(None, np.zeros(2), 0.0, False, False, {})]))
        with pytest.raises(BadSampleError, match=r"obs: expected float64 of shape \(2,\)"):
            memory.append(buffer_of([(None, np.zeros(3), 0.0, False, False, {})]))

    def test_spaces_decide_the_layout(self) -> None:
        space = gym.spaces.Dict(camera=gym.spaces.Box(0, 255, (2, 3), np.uint8), gear=gym.spaces.Discrete(5))
        memory = ReplayMemory(observation_space=space, action_space=gym.spaces.Discrete(3), batch_size=2)
        obs = [space.sample() for _ in range(3)]
        memory.append(
            buffer_of(
                [(None, obs[0], 0.0, False, False, {})] + [(1, o, 0.5, False, False, {}) for o in obs[1:]],
            )
        )
        batch = memory.take([0, 1])
        assert batch.new_obs["camera"].dtype == torch.uint8
        assert batch.new_obs["gear"].tolist() == [int(o["gear"]) for o in obs[1:]]
        assert batch.new_act.tolist() == [1, 1]
        assert batch.new_act.dtype == torch.int64

    def test_space_that_differs_from_the_samples_is_refused_at_the_door(self) -> None:
        memory = ReplayMemory(observation_space=gym.spaces.Box(0, 1, (2,), np.float32))
        with pytest.raises(
            BadSampleError, match=r"obs: expected float32 of shape \(2,\).*found float32 of shape \(1,\)"
        ):
            memory.append(buffer_of(plain_episode(2)))

    def test_refused_first_buffer_does_not_decide_the_layout(self) -> None:
        memory = ReplayMemory()
        bad = plain_episode(2)
        bad[0] = (None, np.zeros(7), 0.0, False, False, {})
        with pytest.raises(BadSampleError, match="obs"):
            memory.append(buffer_of(bad))
        memory.append(buffer_of(plain_episode(3)))
        assert len(memory) == 3

    def test_object_observation_is_refused_with_a_remedy(self) -> None:
        memory = ReplayMemory()
        with pytest.raises(SchemaError, match=r"subclass tmrl\.memory\.TorchMemory"):
            memory.append(buffer_of([(None, "text", 0.0, False, False, {})]))
        assert memory.stats().refused == 1

    def test_info_keys_come_back_typed(self) -> None:
        memory = ReplayMemory(info_keys=("success", "pose"), batch_size=2)
        samples = plain_episode(2)
        for i, sample in enumerate(samples[1:], 1):
            sample[5].update(success=i == 2, pose=np.array([i, i], np.int16), other="ignored")
        memory.append(buffer_of(samples))
        batch = memory.take([0, 1])
        assert batch.info["success"].tolist() == [False, True]
        assert batch.info["success"].dtype == torch.bool
        assert batch.info["pose"].tolist() == [[1, 1], [2, 2]]
        assert batch.info["pose"].dtype == torch.int16
        assert set(memory.get_transition(1)[6]) == {"success", "pose"}

    def test_info_key_that_no_step_has_is_named(self) -> None:
        with pytest.raises(ValueError, match="no sample of the first Buffer has 'success'"):
            ReplayMemory(info_keys=("success",)).append(buffer_of(plain_episode(2)))

    def test_unknown_name_in_finite_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"finite must name fields of the schema.*got 'obs/sped'"):
            ReplayMemory(finite=("obs/sped",)).append(buffer_of(plain_episode(2)))

    def test_nests_of_namedtuples_come_back_as_they_were(self) -> None:
        class Pose(NamedTuple):
            xy: Any
            angle: Any

        memory = ReplayMemory(batch_size=3)
        memory.append(
            buffer_of(
                (np.float32(i), {"pose": Pose(np.full(2, i), i), "c": (i * 1.0,)}, 0.0, False, False, {})
                for i in range(4)
            )
        )
        obs = memory.sample().new_obs
        assert isinstance(obs["pose"], Pose)
        assert obs["pose"].xy.shape == (3, 2)
        assert obs["c"][0].dtype == torch.float64
        assert list(obs) == ["pose", "c"]


class TestRefusal:
    def test_bad_buffer_is_refused_whole_and_the_memory_is_as_it_was(self) -> None:
        memory = filled()
        good = plain_episode(5, first=50)
        bad = [*good, (np.zeros(1, np.float32), np.zeros(2, np.float32), 0.0, False, False, {})]
        before = [memory.get_transition(i) for i in range(20)]
        for _ in range(2):
            with pytest.raises(
                BadSampleError, match="all 7 samples were refused and the memory is as it was"
            ):
                memory.append(buffer_of(bad))
        assert is_identical(before, [memory.get_transition(i) for i in range(20)])
        stats = memory.stats()
        assert (stats.refused, stats.workers["unstamped"].refused) == (14, 14)
        memory.append(buffer_of(good))
        assert len(memory) == 25

    def test_refusal_names_the_worker(self) -> None:
        episode = stamped(plain_episode(2), worker="robot-7")
        episode[2][1][:] = np.nan
        memory = ReplayMemory(finite=("obs",))
        with pytest.raises(
            BadSampleError, match="worker 'robot-7', sample 2 of 3: obs: expected finite numbers"
        ):
            memory.append(buffer_of(episode))
        assert memory.stats().workers["robot-7"].refused == 3


class TestPaths:
    @settings(max_examples=40, deadline=None)
    @given(makers(), st.booleans())
    def test_both_paths_give_equal_batches(self, make: SampleMaker, contiguous: bool) -> None:
        samples = [make(is_reset=i % 4 == 0, terminated=i % 4 == 3) for i in range(13)]
        fast = ReplayMemory(batch_size=5, contiguous=contiguous)
        slow = ReplayMemory(batch_size=5, sample_preprocessor=lambda *six: six)
        for memory in (fast, slow):
            memory.append(buffer_of(samples))
        indices = [0, 3, 3, 8, 1]
        assert is_identical(
            tuple(fast.take(indices)), tuple(slow.take(indices)), as_array=lambda t: t.numpy()
        )

    def test_sample_preprocessor_sees_single_transitions(self) -> None:
        def double(
            prev_obs: Any, new_act: Any, rew: Any, new_obs: Any, terminated: Any, truncated: Any
        ) -> Any:
            return prev_obs * 2, new_act, rew, new_obs * 2, terminated, truncated

        memory = filled(sample_preprocessor=double)
        batch = memory.sample()
        assert torch.equal(batch.new_obs, batch.prev_obs + 2)
        assert memory[3][0] == 6

    def test_batch_preprocessor_sees_the_batch(self) -> None:
        batch = filled(batch_preprocessor=lambda batch: batch.rew * 0).sample()
        assert batch.tolist() == [0.0] * 8

    def test_contiguous_batches_are_dense(self) -> None:
        assert not filled(3, contiguous=False).sample().prev_obs.is_contiguous()
        assert filled(3, contiguous=True).sample().prev_obs.is_contiguous()

    def test_batch_size_device_and_nb_steps_can_be_reassigned(self) -> None:
        memory = filled()
        memory.batch_size, memory.nb_steps = 3, 2
        assert [batch.rew.shape for batch in memory] == [(3,), (3,)]
        memory.batch_size = 0
        with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
            memory.sample()

    def test_same_seed_and_appends_give_the_same_batches(self) -> None:
        first, second = filled(seed=3), filled(seed=3)
        for _ in range(40):
            assert is_identical(tuple(first.sample()), tuple(second.sample()), as_array=lambda t: t.numpy())
        assert not is_identical(
            tuple(filled(seed=4).sample()), tuple(second.sample()), as_array=lambda t: t.numpy()
        )

    def test_new_transition_can_be_in_the_very_next_batch(self) -> None:
        """Numbers, not indices, are drawn ahead."""
        memory = filled(1, batch_size=64)
        memory.sample()
        memory.append(buffer_of(plain_episode(30, first=100)))
        assert (memory.sample().new_obs >= 100).any()


class TestOwnership:
    def test_batch_is_never_overwritten_while_any_part_is_held(self) -> None:
        memory = filled(200, batch_size=16)
        held, copies = [], []
        for _ in range(30):
            batch = memory.sample()
            held.append(batch.prev_obs[3:5])
            copies.append(batch.prev_obs[3:5].clone())
        assert all(torch.equal(a, b) for a, b in zip(held, copies, strict=True))

    def test_numpy_view_of_a_batch_keeps_it(self) -> None:
        memory = filled(200, batch_size=16)
        view = memory.sample().new_obs.numpy()[2:]
        copy = view.copy()
        gc.collect()
        for _ in range(30):
            memory.sample()
        assert (view == copy).all()

    def test_block_is_used_again_once_nobody_holds_it(self) -> None:
        memory = filled(200, batch_size=16)
        addresses = {memory.sample().prev_obs.data_ptr() for _ in range(20)}
        assert len(addresses) == 1

    def test_reward_does_not_keep_the_block(self) -> None:
        memory = filled(200, batch_size=16)
        batch = memory.sample()
        address, rew = batch.prev_obs.data_ptr(), batch.rew
        del batch
        assert memory.sample().prev_obs.data_ptr() == address
        assert rew.shape == (16,)

    def test_batch_may_be_changed_by_its_owner(self) -> None:
        memory = filled()
        memory.sample().prev_obs.zero_()
        assert all_numbers(memory) == list(range(1, 21))

    def test_batch_does_not_alias_what_was_appended(self) -> None:
        """B39: samples changed after append, by a worker that reuses its arrays, change nothing here."""
        memory = ReplayMemory()
        samples = plain_episode(4)
        memory.append(buffer_of(samples))
        for sample in samples:
            sample[1][:] = -1
        assert all_numbers(memory) == [1, 2, 3, 4]

    def test_transition_is_a_copy(self) -> None:
        memory = filled()
        memory.get_transition(0)[3][:] = 77
        assert memory.get_transition(0)[3] == 1


class TestSize:
    def test_memory_size_may_be_a_float(self) -> None:
        memory = filled(30, memory_size=1e1)
        assert memory.memory_size == 10
        assert all_numbers(memory) == list(range(21, 31))

    def test_growing_and_shrinking_keep_the_newest(self) -> None:
        memory = filled(30, memory_size=20)
        memory.memory_size = 5
        assert all_numbers(memory) == [26, 27, 28, 29, 30]
        memory.memory_size = 8
        assert all_numbers(memory) == [26, 27, 28, 29, 30]
        memory.append(buffer_of(plain_episode(4, first=100)))
        # Eight transitions need nine rows in one episode, and ten in two: the older episode gives one up.
        assert all_numbers(memory) == [28, 29, 30, 101, 102, 103, 104]
        assert memory.stats().evicted == memory.stats().appended - memory.stats().rows

    def test_length_never_exceeds_memory_size(self) -> None:
        memory = ReplayMemory(memory_size=7)
        for i in range(40):
            memory.append(buffer_of(plain_episode(1 + i % 9, first=100 * i)))
            assert len(memory) <= 7

    def test_bytes_are_known_from_the_first_buffer_on(self) -> None:
        memory = ReplayMemory(memory_size=1000)
        assert memory.stats().bytes_full == 0
        memory.append(buffer_of(plain_episode(9)))
        stats = memory.stats()
        row = 4 + 4 + 4 + 1 + 1 + 2
        assert stats.bytes_full == 1001 * (row + 32)
        assert stats.bytes_now == 10 * (row + 32)

    def test_size_that_int32_slots_cannot_hold_is_refused(self) -> None:
        """B43: slots are 32 bits wide."""
        with pytest.raises(ValueError, match="memory_size must be at least 1 and below 2147483647"):
            ReplayMemory(memory_size=3e9)

    def test_memory_that_the_machine_cannot_hold_says_how_large_it_is(self) -> None:
        memory = ReplayMemory(memory_size=2e9)
        image = np.zeros((1000, 1000, 100), np.uint8)
        with pytest.raises(
            MemoryError, match=r"2,000,000,000 transitions of 100,000,040 bytes need 200,000,080 GB"
        ):
            memory.append(buffer_of([(np.zeros(1, np.uint8), image, 0.0, False, False, {})] * 2))


class TestStats:
    def test_stats_count_by_worker_and_source(self) -> None:
        memory = ReplayMemory(memory_size=8, batch_size=4)
        episode = stamped(plain_episode(9), worker="ann")
        memory.append(buffer_of([*episode[:3], *episode[2:4], *episode[6:]]))
        memory.append(buffer_of(plain_episode(3)), source="demo")
        stats = memory.stats()
        assert (stats.transitions, stats.rows, stats.capacity) == (len(memory), 9, 8)
        assert (stats.appended, stats.evicted, stats.duplicates, stats.gaps) == (12, 3, 1, 2)
        assert stats.workers["ann"].rows == 5
        assert stats.workers["ann"].evicted == 3
        assert stats.sources["demo"].appended == stats.workers["unstamped"].appended == 4
        assert stats.sources["online"].gaps == 2

    def test_draws_and_ages_are_those_of_the_newest_batch(self) -> None:
        memory = filled(1, batch_size=4)
        assert np.isnan(memory.stats().age_rows_p50)
        memory.sample()
        stats = memory.stats()
        assert (stats.draws, stats.age_rows_p50, stats.age_rows_p95) == (4, 0.0, 0.0)
        assert stats.age_s_p50 >= 0.0
        memory.append(buffer_of(plain_episode(1)))
        memory.take([0])
        assert memory.stats().age_rows_p50 == 2.0


class TestThreads:
    def test_appending_while_iterating_is_legal_from_another_thread(self) -> None:
        """B41: a half-written row is never drawn: within a row, every number is the same."""
        memory = ReplayMemory(memory_size=300, batch_size=32, seed=0, nb_steps=300)
        stop = threading.Event()
        failures: list[BaseException] = []

        def episode(first: int) -> Buffer:
            samples = []
            for i in range(20):
                obs = np.full(2000, first + i, np.int64)
                samples.append((obs[:1], obs, float(first + i), i == 19, False, {}))
            return buffer_of(samples)

        def append() -> None:
            try:
                first = 100
                while not stop.is_set():
                    memory.append(episode(first))
                    first += 100
            except BaseException as error:
                failures.append(error)

        memory.append(episode(0))
        thread = threading.Thread(target=append)
        thread.start()
        try:
            for prev_obs, act, rew, new_obs, _, _ in memory:
                assert (new_obs == new_obs[:, :1]).all()
                assert (prev_obs == new_obs - 1).all()
                assert (act == new_obs[:, :1]).all()
                assert (rew == new_obs[:, 0]).all()
        finally:
            stop.set()
            thread.join(30)
        assert not failures
