"""`check_memory` passes a memory that keeps the interface, and names what breaks one that does not."""

import random
import re

import numpy as np
import pytest

from tmrl.buffer import Buffer
from tmrl.errors import ContractError, TmrlError
from tmrl.memory import ReplayMemory, TorchMemory
from tmrl.testing import check_memory, recognisable_buffer


@pytest.fixture(autouse=True)
def seeded():
    random.seed(0)


class GoodMemory(TorchMemory):
    """Keeps whole transitions; knows that a Buffer begins with a reset."""

    def append_buffer(self, buffer):
        for before, after in zip(buffer.memory, buffer.memory[1:], strict=False):
            if not (before[3] or before[4]):
                act, obs, rew, terminated, truncated, info = after
                self.data.append((before[1], act, rew, obs, terminated, truncated, info))
        del self.data[: max(0, len(self.data) - int(self.memory_size))]

    def __len__(self):
        return len(self.data)

    def get_transition(self, item):
        return self.data[item]


def made(cls, **kwargs):
    return cls(**{"device": "cpu", "memory_size": 20, "batch_size": 4, **kwargs})


def findings(memory, buffer=None):
    with pytest.raises(ContractError) as caught:
        check_memory(memory, buffer)
    assert isinstance(caught.value, TmrlError)
    assert isinstance(caught.value, AssertionError)
    return caught.value.findings


@pytest.mark.parametrize("options", [{}, {"crc_debug": True}, {"memory_size": 5}, {"memory_size": 1e6}])
def test_memory_that_keeps_the_interface_passes_without_caution(options):
    assert check_memory(made(GoodMemory, **options)) == []


@pytest.mark.parametrize("options", [{}, {"crc_debug": True}, {"memory_size": 5}, {"memory_size": 1e6}])
def test_replay_memory_passes_without_caution(options):
    assert check_memory(made(ReplayMemory, **options)) == []


def test_check_leaves_the_sizes_and_the_preprocessor_as_they_were():
    memory = made(GoodMemory, sample_preprocessor=lambda *six: six, nb_steps=7)
    before = (memory.sample_preprocessor, memory.nb_steps, memory.batch_size)
    check_memory(memory)
    assert (memory.sample_preprocessor, memory.nb_steps, memory.batch_size) == before


def test_buffer_of_the_check_has_no_number_twice():
    samples = recognisable_buffer().memory
    assert len({sample[1].tobytes() for sample in samples}) == len(samples)
    rewards = [sample[2] for sample in samples if sample[2]]
    assert len(set(rewards)) == len(rewards)


class WithoutInit(GoodMemory):
    def __init__(self, device, memory_size, batch_size):
        self.data = []


class Stitching(GoodMemory):
    def append_buffer(self, buffer):
        for before, after in zip(buffer.memory, buffer.memory[1:], strict=False):
            act, obs, rew, terminated, truncated, _ = after
            self.data.append((before[1], act, rew, obs, terminated, truncated, {}))
        del self.data[: max(0, len(self.data) - int(self.memory_size))]


class StitchingBuffers(GoodMemory):
    def __init__(self, *args, **kwargs):
        self.last = None
        super().__init__(*args, **kwargs)

    def append_buffer(self, buffer):
        samples, whole = ([self.last] if self.last else []) + buffer.memory, Buffer()
        whole.memory, self.last = [(*sample[:5], {}) for sample in samples], samples[-1]
        super().append_buffer(whole)


class Shifted(GoodMemory):
    def get_transition(self, item):
        prev_obs, _, *rest = self.data[item]
        return (prev_obs, self.data[item - 1][1], *rest)


class Stale(GoodMemory):
    def __len__(self):
        return max(0, len(self.data) - 1)


class Growing(GoodMemory):
    def append_buffer(self, buffer):
        kept = self.data
        self.data = []
        super().append_buffer(buffer)
        self.data = kept + self.data


class Redrawing(GoodMemory):
    def get_transition(self, item):
        return self.data[random.randrange(len(self))]


class WithoutInfo(GoodMemory):
    def get_transition(self, item):
        return self.data[item][:6]


class DroppedInfo(GoodMemory):
    def get_transition(self, item):
        return (*self.data[item][:6], {})


class Draining(GoodMemory):
    def append_buffer(self, buffer):
        super().append_buffer(buffer)
        buffer.memory.clear()


class Refusing(GoodMemory):
    def append_buffer(self, buffer):
        raise RuntimeError("out of order")


class Deaf(GoodMemory):
    def append(self, buffer):
        self.append_buffer(buffer)


class EmptyLearning(GoodMemory):
    def append(self, buffer):
        self.stat_train_return = buffer.stat_train_return
        super().append(buffer)


class Forgetting(GoodMemory):
    def append_buffer(self, buffer):
        pass


class FixedBatch(GoodMemory):
    def collate(self, batch, device):
        return super().collate((batch * 4)[:4], device)


class OtherDevice(GoodMemory):
    def collate(self, batch, device):
        return super().collate(batch, "meta")


class FourParts(GoodMemory):
    def collate(self, batch, device):
        return super().collate(batch, device)[:4]


class Doubles(GoodMemory):
    def collate(self, batch, device):
        return tuple(part.double() for part in super().collate(batch, device))


class Endless(GoodMemory):
    def __iter__(self):
        return iter([self.sample()] * 4)


class Sketchy(GoodMemory):
    def __getitem__(self, item):
        return self.data[item][:6]


Sketchy.__getitem__.__module__ = "tmrl.memory.base"

BROKEN = {
    WithoutInit: r"reading the attributes raised TypeError: it lacks nb_steps, device, .* super\(\).__init__",
    Stitching: r"\d of \d+ transitions never happened; .* consecutive samples of one episode",
    StitchingBuffers: r"\d of \d+ transitions never happened; .* transition \d+ joins prev_obs=",
    Shifted: r"transitions never happened; .* act of step \d+ \(episode \d\)",
    Growing: r"len\(\) is \d+, more than memory_size=20: drop the oldest",
    WithoutInfo: r"get_transition raised ValueError: transition 0 must have 7 parts, info the last, got 6",
    Draining: r"append_buffer changed the Buffer's samples; they are the caller's",
    Refusing: r"append raised RuntimeError: out of order",
    Deaf: r"append must take stat_train_return, stat_test_return, .* from the Buffer",
    EmptyLearning: r"append of an empty Buffer must change nothing, statistics included",
    Forgetting: r"len\(\) is 0 after a Buffer of 17 samples: no transition can be drawn",
    FixedBatch: r"must have batch_size=5 entries, got shapes .*\(4, 3\).*; batch_size may be reassigned",
    OtherDevice: r"a batch must be on device cpu, found meta",
    FourParts: r"a batch must have six parts, got 4",
    Doubles: r"terminated and truncated must be float32, got {'float64'}",
    Endless: r"iteration must yield nb_steps=1 batches, got 4",
    Sketchy: r"memory\[i\] must be six parts, with terminated and truncated as np.float32",
}


@pytest.mark.parametrize("cls", BROKEN)
def test_broken_memory_is_told_what_breaks_it(cls):
    found = findings(made(cls))
    assert any(re.search(BROKEN[cls], finding) for finding in found), found


def test_message_lists_every_finding():
    class Twice(Endless, Draining):
        pass

    with pytest.raises(
        ContractError, match=r"Twice breaks the interface of tmrl.memory.Memory:\n- append_buffer .*"
    ):
        check_memory(made(Twice))
    assert len(findings(made(Twice))) >= 2


def test_ignored_preprocessor_is_found():
    assert "memory[i] does not go through sample_preprocessor" in findings(made(Sketchy))


def test_lost_checksums_are_found_in_crc_mode_only():
    assert check_memory(made(DroppedInfo)) == []
    assert 'get_transition must return the info of new_obs, with its "crc"' in findings(
        made(DroppedInfo, crc_debug=True)
    )


@pytest.mark.parametrize(
    ("cls", "caution"),
    [
        (
            Redrawing,
            "get_transition gives different transitions for one index, so that some are drawn more often",
        ),
        (Stale, r"the newest transition cannot be drawn; len\(\) is too small"),
        (Stale, "1 of 13 transitions that happened are reached by no index"),
    ],
)
def test_what_is_allowed_but_unwise_is_returned(cls, caution):
    cautions = check_memory(made(cls))
    assert any(re.search(caution, found) for found in cautions), cautions


def test_drawing_from_an_empty_memory_must_raise():
    class Inventive(GoodMemory):
        def sample(self):
            return None

    Inventive.sample.__module__ = "tmrl.memory.base"
    assert any("sample() of an empty memory returned a batch" in found for found in findings(made(Inventive)))


def test_filled_memory_is_checked_by_the_general_rules():
    memory = made(GoodMemory)
    memory.append(recognisable_buffer())
    assert check_memory(memory) == []


def test_samples_of_the_callers_own_can_be_given():
    buffer = Buffer()
    buffer.memory = [(np.int64(i), {"a": np.uint8([i])}, float(i), i == 3, False, {}) for i in range(8)]
    assert check_memory(made(GoodMemory), buffer) == []


def test_observations_that_are_rebuilt_without_checksums_give_a_caution():
    class Rebuilding(GoodMemory):
        def get_transition(self, item):
            prev_obs, act, rew, obs, *flags, _ = self.data[item]
            return (prev_obs[None], act, rew, obs[None], *flags, {})

    cautions = check_memory(made(Rebuilding))
    assert len(cautions) == 1
    assert "to check them bit by bit, give an empty memory with crc_debug=True" in cautions[0]
