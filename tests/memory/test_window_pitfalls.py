"""Windows by example: bugs that other libraries shipped, and what the property tests do not say in words."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.wrappers import FrameStackObservation

from makers import buffer_of, plain_episode, stamped, with_crc
from tmrl.errors import DatasetError, IntegrityError
from tmrl.memory import FrameStack, NStep, ReplayMemory, Sequence, Transition
from tmrl.memory.windows import Window, window_from_json, window_to_json
from tmrl.transition import Sample


def memory_of(window: Window, *episodes: list[Any], **kwargs: Any) -> ReplayMemory:
    memory = ReplayMemory(**{"window": window, "batch_size": 64, "seed": 0, "memory_size": 1000, **kwargs})
    for episode in episodes:
        memory.append(buffer_of(episode))
    return memory


def everything(memory: ReplayMemory) -> Any:
    return memory.take(range(len(memory)))


def numbers(tensor: torch.Tensor) -> Any:
    """Observations of `plain_episode` as the numbers that they hold."""
    return tensor.squeeze(-1).int().tolist()


class TestFrameStack:
    @pytest.mark.parametrize("ending", ["terminated", "truncated", "open"])
    def test_a_stack_never_crosses_an_episode(self, ending: str) -> None:
        """B04: dopamine stacked over truncated episodes."""
        memory = memory_of(FrameStack(3), plain_episode(3, 10, ending), plain_episode(3, 20, ending))
        assert numbers(everything(memory).prev_obs)[3:] == [[20, 20, 20], [20, 20, 21], [20, 21, 22]]

    def test_the_first_stacks_are_padded_with_the_reset(self) -> None:
        """B06."""
        batch = everything(memory_of(FrameStack(4), plain_episode(3)))
        assert numbers(batch.prev_obs) == [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 2]]
        assert numbers(batch.new_obs) == [[0, 0, 0, 1], [0, 0, 1, 2], [0, 1, 2, 3]]

    def test_stacks_are_those_of_gymnasium(self) -> None:
        """The same environment with its wrapper, and without it and stacked by the memory."""
        frames: dict[bool, list[Any]] = {}
        for is_wrapped in (True, False):
            env: Any = gymnasium.make("Pendulum-v1", max_episode_steps=9)
            env = FrameStackObservation(env, 4) if is_wrapped else env
            memory = ReplayMemory(window=Transition() if is_wrapped else FrameStack(4))
            for seed in range(3):
                obs, info = env.reset(seed=seed)
                samples: list[Any] = [(None, np.array(obs), 0.0, False, False, info)]
                while not samples[-1][4]:
                    obs, rew, *flags, info = env.step(np.array([0.5], np.float32))
                    samples.append((np.array([0.5], np.float32), np.array(obs), float(rew), *flags, info))
                memory.append(buffer_of(samples))
            batch = everything(memory)
            frames[is_wrapped] = [batch.prev_obs, batch.new_obs]
        assert all(torch.equal(one, other) for one, other in zip(frames[True], frames[False], strict=True))
        assert frames[True][0].shape == (27, 4, 3)

    def test_only_named_leaves_are_stacked_and_views_are_handed_out(self) -> None:
        def obs(i: int) -> Any:
            return {"camera": np.full((2, 2), i, np.uint8), "speed": np.float32(i)}

        samples = [(None if i == 0 else np.float32(i), obs(i), 0.0, False, False, {}) for i in range(5)]
        batch = everything(memory_of(FrameStack(2, ("camera",)), samples))
        assert batch.prev_obs["camera"].shape == (4, 2, 2, 2)
        assert batch.prev_obs["speed"].tolist() == [0, 1, 2, 3]
        assert not batch.prev_obs["camera"].is_contiguous()
        assert (
            everything(memory_of(FrameStack(2), samples, contiguous=True)).prev_obs["camera"].is_contiguous()
        )

    def test_an_anchor_whose_stack_is_not_all_there_cannot_be_drawn(self) -> None:
        """A lost step: two more are needed before a stack of three is whole again."""
        lost = stamped(plain_episode(8))
        del lost[3]
        memory = memory_of(FrameStack(3), lost)
        assert numbers(everything(memory).new_obs) == [[0, 0, 1], [0, 1, 2], [5, 6, 7], [6, 7, 8]]

    def test_a_million_stacks_of_four_fit_in_seven_and_a_half_gigabytes(self) -> None:
        """Shown on a hundredth; what a row takes does not depend on how many there are."""
        memory = ReplayMemory(memory_size=10_000, window=FrameStack(4), batch_size=32)
        frame = np.zeros((84, 84), np.uint8)
        samples = [(None if i == 0 else np.int64(0), frame, 0.0, False, False, {}) for i in range(100)]
        memory.append(buffer_of(samples))
        assert memory.sample().new_obs.shape == (32, 4, 84, 84)
        assert memory.stats().bytes_full / 10_001 * 1_000_001 < 7.5e9


class TestNStep:
    def test_rewards_are_summed_up_to_the_end_and_no_further(self) -> None:
        """B11, B13, B14: fewer steps at the end, each discounted by how many there are; none is dropped."""
        batch = everything(memory_of(NStep(3, 0.5), plain_episode(4), plain_episode(2, 10, "truncated")))
        assert batch.rew.tolist() == [1 + 2 / 2 + 3 / 4, 2 + 3 / 2 + 4 / 4, 3 + 4 / 2, 4, 11 + 12 / 2, 12]
        assert batch.n_steps.tolist() == [3, 3, 2, 1, 2, 1]
        assert batch.discounts.tolist() == [0.125, 0.125, 0.25, 0.5, 0.25, 0.5]
        assert batch.terminated.tolist() == [0, 1, 1, 1, 0, 0]
        assert batch.truncated.tolist() == [0, 0, 0, 0, 1, 1]

    def test_observations_are_those_of_the_first_and_the_last_step(self) -> None:
        """B12: ray shifted the first one by n."""
        batch = everything(memory_of(NStep(3, 0.9), plain_episode(5)))
        assert numbers(batch.prev_obs) == [0, 1, 2, 3, 4]
        assert numbers(batch.new_act) == [-1, -2, -3, -4, -5]
        assert numbers(batch.new_obs) == [3, 4, 5, 5, 5]

    def test_a_time_limit_is_not_passed(self) -> None:
        """B15: returns of episodes that are cut do not go on in the next one."""
        short = memory_of(NStep(5, 1.0), plain_episode(2, 0, "truncated"), plain_episode(2, 10, "truncated"))
        assert everything(short).rew.tolist() == [3, 2, 23, 12]

    def test_interleaved_streams_do_not_mix(self) -> None:
        """B10: eight streams, n = 3."""
        streams = [stamped(plain_episode(6, 100 * i), f"w{i}") for i in range(8)]
        memory = memory_of(NStep(3, 1.0))
        for samples in zip(*streams, strict=True):
            memory.append(buffer_of(samples))
        batch = everything(memory)
        for prev_obs, rew, k in zip(
            numbers(batch.prev_obs), batch.rew.tolist(), batch.n_steps.tolist(), strict=True
        ):
            assert rew == sum(prev_obs + i for i in range(1, k + 1))
            assert k == min(3, 6 - prev_obs % 100)

    def test_the_newest_rows_can_be_drawn_at_once(self) -> None:
        """B16: one by one, the window of each grows as steps arrive."""
        memory = memory_of(NStep(3, 1.0))
        for i, sample in enumerate(plain_episode(5)):
            memory.append(buffer_of([sample]), continues=i > 0)
            assert len(memory) == i
        assert everything(memory).n_steps.tolist() == [3, 3, 3, 2, 1]

    def test_stacks_of_a_short_window_end_with_its_last_step(self) -> None:
        batch = everything(memory_of(NStep(3, 1.0, FrameStack(2)), plain_episode(4)))
        assert numbers(batch.prev_obs) == [[0, 0], [0, 1], [1, 2], [2, 3]]
        assert numbers(batch.new_obs) == [[2, 3], [3, 4], [3, 4], [3, 4]]


class TestSequence:
    def test_the_tail_of_an_episode_is_kept_and_padded(self) -> None:
        """B17, B21: lengths that are no multiple of the stride; flags of each step."""
        batch = everything(memory_of(Sequence(4, burn_in=1, stride=3), plain_episode(5)))
        assert numbers(batch.prev_obs) == [[0, 1, 2, 3], [3, 4, 5, 5]]
        assert numbers(batch.new_obs) == [[1, 2, 3, 4], [4, 5, 5, 5]]
        assert batch.rew.tolist() == [[1, 2, 3, 4], [4, 5, 0, 0]]
        assert batch.mask.tolist() == [[0, 1, 1, 1], [0, 1, 0, 0]]
        assert batch.is_first.tolist() == [[True, False, False, False], [False] * 4]
        assert batch.terminated.tolist() == [[0, 0, 0, 0], [0, 1, 0, 0]]

    def test_sequences_never_cross_episodes_or_the_end_of_the_ring(self) -> None:
        """B18, B20, B22: counters as data, in a ring that is overwritten again and again."""
        memory = memory_of(Sequence(5), memory_size=23)
        for i in range(30):
            memory.append(buffer_of(plain_episode(7, 100 * i, ("terminated", "truncated", "open")[i % 3])))
            batch = everything(memory)
            for obs, mask in zip(numbers(batch.new_obs), batch.mask.tolist(), strict=True):
                n = int(sum(mask))
                assert obs[:n] == list(range(obs[0], obs[0] + n))
                assert obs[n:] == [obs[n - 1]] * (5 - n)
                assert obs[0] // 100 == obs[-1] // 100

    def test_stored_states_come_along_with_the_one_before_the_first_step(self) -> None:
        episode = stamped(plain_episode(4))
        for i, sample in enumerate(episode):
            if i:  # a reset that says nothing has zeros, the state that an episode begins with
                sample[5]["state"] = np.full(2, i, np.float32)
        batch = everything(memory_of(Sequence(3, stride=2), episode, info_keys=("state",)))
        assert batch.info["state"][..., 0].tolist() == [[0, 1, 2, 3], [2, 3, 4, 4]]


@pytest.mark.parametrize(
    "window", [FrameStack(3), NStep(3, 0.9), NStep(3, 0.9, FrameStack(3)), Sequence(4, stride=2)]
)
class TestEveryWindow:
    def test_checksums_of_all_its_rows_are_compared(self, window: Window) -> None:
        memory = memory_of(window, with_crc(stamped(plain_episode(9))), crc_debug=True)
        memory.sample()
        assert memory.stats().crc_checked >= 64
        memory.get_transition(0)
        assert memory._store is not None
        memory._store.ring.rows["obs"][5] += 1
        with pytest.raises(IntegrityError, match=r"obs of step 5|prev_obs"):
            everything(memory)

    def test_a_memory_goes_on_with_it_after_a_load(self, window: Window, tmp_path: Any) -> None:
        """Also in the middle of an episode whose beginning is gone."""
        kept = memory_of(window, memory_size=6)
        kept.append(buffer_of(stamped(plain_episode(20, ending="open"))))
        kept.save(tmp_path)
        loaded = ReplayMemory.load(tmp_path)
        assert loaded.window == window
        for memory in (kept, loaded):
            memory.append(buffer_of(stamped(plain_episode(5, 20, "truncated")[1:], first_step=21)))
        for _ in range(3):
            ours, theirs = kept.sample(), loaded.sample()
            assert torch.equal(ours.prev_obs, theirs.prev_obs)
            assert torch.equal(ours.new_obs, theirs.new_obs)

    def test_the_path_of_single_items_gives_the_same(self, window: Window) -> None:
        memory = memory_of(window, plain_episode(9))
        expected = everything(memory)
        memory.sample_preprocessor = lambda *six: six
        found = everything(memory)
        for one, other in zip(expected, found, strict=True):
            assert torch.equal(one, other)

    def test_it_is_cut_on_another_device_too(self, window: Window) -> None:
        ours, theirs = memory_of(window, plain_episode(9)), memory_of(window, plain_episode(9), device="meta")
        for one, other in zip(ours.sample(), theirs.sample(), strict=True):
            assert (one.shape, one.dtype, other.device.type) == (other.shape, other.dtype, "meta")

    def test_it_is_written_as_json(self, window: Window) -> None:
        document = window_to_json(window)
        assert document is not None
        assert window_from_json(document) == window


def test_window_of_the_users_own_is_given_again_at_a_load(tmp_path: Any) -> None:
    class Own(Transition):
        pass

    memory_of(Own(), plain_episode(5)).save(tmp_path)
    assert type(ReplayMemory.load(tmp_path).window) is Transition
    assert type(ReplayMemory.load(tmp_path, window=Own()).window) is Own
    with pytest.raises(DatasetError, match="a saved window must be one of Transition, FrameStack"):
        window_from_json({"kind": "Path"})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FrameStack(0), "k must be at least 1, got 0"),
        (lambda: NStep(0, 0.9), "n must be at least 1, got 0"),
        (lambda: NStep(2, 1.5), r"discount must be in \[0, 1\], got 1.5"),
        (lambda: Sequence(0), "length must be at least 1, got 0"),
        (lambda: Sequence(3, stride=0), "stride must be at least 1, got 0"),
        (lambda: Sequence(3, burn_in=3), "burn_in must be at least 0 and below length=3, got 3"),
    ],
)
def test_numbers_that_make_no_window_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_the_stamp_of_a_sample_is_not_needed() -> None:
    assert isinstance(stamped(plain_episode(1))[0], Sample)
    plain, with_stamp = (memory_of(NStep(2, 0.5), e) for e in (plain_episode(4), stamped(plain_episode(4))))
    assert torch.equal(everything(plain).rew, everything(with_stamp).rew)
