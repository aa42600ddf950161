"""The documented interface: what `Memory` does, and which of its methods calls which."""

import logging
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest

from tmrl.buffer import Buffer
from tmrl.errors import EmptyMemoryError, IntegrityError, UnsafePickleError
from tmrl.integrity import transition_crcs
from tmrl.memory import Memory, check_samples_crc
from user_memories import ListStorage


class ListMemory(ListStorage, Memory):
    def collate(self, batch, device):
        return list(zip(*batch, strict=True)), device


class LabelledMemory(ListMemory):
    def append_buffer(self, buffer, *, source="online", continues=False):
        self.data += [(*transition, source, continues) for transition in buffer.memory]


class ColumnMemory(ListMemory):
    def __len__(self):
        return max(0, len(self.data[0]) - 1) if self.data else 0


def transition(number, info=None):
    return (
        np.float32([number]),
        np.float32([-number]),
        0.5,
        np.float32([number + 1]),
        False,
        True,
        info or {},
    )


def filled_buffer(n=4):
    buffer = Buffer()
    buffer.memory = [transition(i) for i in range(n)]
    buffer.stat_train_return, buffer.stat_test_return = 1.5, 2.5
    buffer.stat_train_steps, buffer.stat_test_steps = 3, 4
    return buffer


def filled_memory(n=4, **kwargs):
    memory = ListMemory("cpu", **kwargs)
    memory.append(filled_buffer(n))
    return memory


def statistics(memory):
    return (
        memory.stat_train_return,
        memory.stat_test_return,
        memory.stat_train_steps,
        memory.stat_test_steps,
    )


def test_constructor_takes_the_documented_arguments_in_order():
    memory = ListMemory("cuda", 7, max, 10, 3, "", True)
    assert (memory.device, memory.nb_steps, memory.sample_preprocessor) == ("cuda", 7, max)
    assert (memory.memory_size, memory.batch_size, memory.crc_debug) == (10, 3, True)
    assert memory.data == []
    assert statistics(memory) == (0.0, 0.0, 0, 0)


def test_constructor_has_the_documented_defaults():
    memory = ListMemory("cpu", nb_steps=1)
    assert (memory.memory_size, memory.batch_size, memory.crc_debug) == (1_000_000, 256, False)
    assert memory.sample_preprocessor is None


@pytest.mark.parametrize("name", ["nb_steps", "memory_size", "batch_size"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_sizes_below_one_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got {value}"):
        ListMemory("cpu", **{name: value})


def test_memory_size_may_be_a_float():
    assert ListMemory("cpu", memory_size=1e6).memory_size == 1e6


def test_attributes_set_before_the_constructor_serve_its_len():
    class Early(ListMemory):
        def __init__(self, *args, extra, **kwargs):
            self.extra = extra
            super().__init__(*args, **kwargs)

        def __len__(self):
            return self.extra

    assert len(Early("cpu", extra=5)) == 5


def test_append_takes_the_statistics_then_the_samples():
    class Watching(ListMemory):
        def append_buffer(self, buffer):
            assert statistics(self) == (1.5, 2.5, 3, 4)
            super().append_buffer(buffer)

    memory = Watching("cpu")
    memory.append(filled_buffer())
    assert len(memory) == 4


def test_empty_buffer_changes_nothing():
    memory = filled_memory()
    empty = Buffer()
    empty.stat_train_return = 9.0
    memory.append(empty)
    assert statistics(memory) == (1.5, 2.5, 3, 4)
    assert len(memory) == 4


def test_duck_typed_buffer_is_taken():
    class Duck:
        memory = (transition(0),)
        stat_train_return = stat_test_return = 1.0
        stat_train_steps = stat_test_steps = 1

        def __len__(self):
            return 1

    memory = ListMemory("cpu")
    memory.append(Duck())
    assert len(memory) == 1


def test_source_and_continues_reach_a_memory_that_takes_them():
    memory = LabelledMemory("cpu")
    memory.append(filled_buffer(1))
    memory.append(filled_buffer(1), source="demo", continues=True)
    assert [entry[-2:] for entry in memory.data] == [("online", False), ("demo", True)]


@pytest.mark.parametrize(
    ("options", "given"), [({"source": "demo"}, "source='demo'"), ({"continues": True}, "continues=True")]
)
def test_source_and_continues_are_refused_where_nobody_would_heed_them(options, given):
    memory = ListMemory("cpu")
    with pytest.raises(TypeError, match=f"ListMemory.append_buffer does not take {given}; leave it out"):
        memory.append(filled_buffer(), **options)
    assert len(memory) == 0
    assert statistics(memory) == (0.0, 0.0, 0, 0)


def test_defaults_of_source_and_continues_go_to_any_memory():
    memory = ListMemory("cpu")
    memory.append(filled_buffer(), source="online", continues=False)
    assert len(memory) == 4


def test_sample_goes_through_every_documented_method():
    calls = []

    class Watching(ListMemory):
        def sample_indices(self):
            calls.append("sample_indices")
            return (2, 0)

        def __getitem__(self, item):
            calls.append(item)
            return super().__getitem__(item)

        def get_transition(self, item):
            calls.append(("get_transition", item))
            return super().get_transition(item)

        def collate(self, batch, device):
            calls.append(("collate", len(batch), device))
            return "batch"

    memory = Watching("somewhere")
    memory.append(filled_buffer())
    assert memory.sample() == "batch"
    assert calls == [
        "sample_indices",
        2,
        ("get_transition", 2),
        0,
        ("get_transition", 0),
        ("collate", 2, "somewhere"),
    ]


def test_indices_are_lazy_uniform_and_from_the_global_state():
    memory = filled_memory(batch_size=5)
    random.seed(3)
    indices = memory.sample_indices()
    assert iter(indices) is indices
    found = list(indices)
    random.seed(3)
    assert found == [random.randint(0, 3) for _ in range(5)]


def test_every_transition_is_drawn():
    """B19, B36: the newest and the oldest too."""
    random.seed(0)
    assert set(filled_memory(batch_size=500).sample_indices()) == {0, 1, 2, 3}


def test_empty_memory_says_what_to_do():
    with pytest.raises(
        EmptyMemoryError, match="cannot draw 256 transitions: the memory holds 0; append a Buffer"
    ):
        ListMemory("cpu").sample()


def test_iteration_yields_nb_steps_batches_and_sees_later_appends():
    memory = filled_memory(1, nb_steps=3, batch_size=50)
    lengths = []
    for _ in memory:
        lengths.append(len(memory))
        memory.append(filled_buffer(1))
    assert lengths == [1, 2, 3]


def test_reassigned_sizes_take_effect():
    """B56: the batch has the size asked for."""
    memory = filled_memory()
    memory.nb_steps, memory.batch_size = 2, 9
    batches = list(memory)
    assert len(batches) == 2
    assert len(batches[0][0][0]) == 9


def test_item_keeps_what_get_transition_returns_but_for_float32_flags():
    parts = filled_memory()[1]
    assert len(parts) == 6
    assert parts[2] == 0.5
    assert type(parts[2]) is float
    assert [type(part) for part in parts[4:]] == [np.float32, np.float32]
    assert parts[4:] == (0.0, 1.0)


def test_preprocessor_gets_the_six_before_the_cast():
    def flip(prev_obs, new_act, rew, new_obs, terminated, truncated):
        assert (terminated, truncated) == (False, True)
        return -prev_obs, new_act, rew * 2, -new_obs, truncated, terminated

    prev_obs, _, rew, new_obs, terminated, truncated = filled_memory(sample_preprocessor=flip)[2]
    assert (prev_obs, rew, new_obs, terminated, truncated) == (-2, 1.0, -3, 1.0, 0.0)


# CRC debugging


def stamped(number):
    six = transition(number)[:6]
    prev_obs, act, rew, obs, terminated, truncated = six
    fields = transition_crcs(prev_obs, act, obs, rew, terminated, truncated)
    return (*six, {"crc": {"worker": "w", "episode": 2, "step": 17, "fields": fields}})


def older(number):
    prev_obs, act, rew, obs, terminated, truncated, _ = transition(number)
    info = {"crc_sample": (prev_obs, act, obs, rew, terminated, truncated), "crc_sample_ts": (17, 4)}
    return (prev_obs, act, rew, obs, terminated, truncated, info)


def checking_memory(*transitions, **kwargs):
    memory = ListMemory("cpu", crc_debug=True, **kwargs)
    memory.data = list(transitions)
    return memory


@pytest.mark.parametrize("made", [stamped, older])
def test_equal_transitions_pass_silently_and_are_counted(made, capsys):
    memory = checking_memory(made(0), made(1), batch_size=20)
    memory.sample()
    assert memory.crc_checked == 20
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("made", [stamped, older])
@pytest.mark.parametrize(
    ("part", "leaf"), list(enumerate(["prev_obs", "act", "rew", "obs", "terminated", "truncated"]))
)
def test_one_changed_part_is_named_with_its_time_step(made, part, leaf):
    changed = list(made(3))
    changed[part] = not changed[part] if part > 3 else changed[part] + np.float32(1e-6)
    with pytest.raises(AssertionError, match=rf"^{leaf} of (time )?step 17 .* worker") as caught:
        checking_memory(tuple(changed))[0]
    assert caught.type is IntegrityError


def test_checksums_are_compared_before_the_preprocessor():
    memory = checking_memory(stamped(1), sample_preprocessor=lambda *six: (six[0] + 1, *six[1:]))
    assert memory[0][0] == 2


@pytest.mark.parametrize("info", [{}, None, {"speed": 1}])
def test_sample_without_checksum_says_that_the_worker_was_not_in_crc_mode(info):
    with pytest.raises(IntegrityError, match="its worker was not in CRC mode"):
        checking_memory((*transition(0)[:6], info))[0]


def arguments(**changes):
    obs = {"image": np.arange(4, dtype=np.uint8), "speed": (1.5,)}
    original = {"po": obs, "a": np.float32([1]), "o": obs, "r": 0.1, "d": False, "t": False}
    rebuilt = {f"{name}_rebuilt": value for name, value in original.items()}
    return tuple({**original, **rebuilt, "ts": 12, "ts_reset": 3, **changes}.values())


def test_check_samples_crc_takes_14_arguments_and_is_silent(capsys):
    assert len(arguments()) == 14
    assert check_samples_crc(*arguments()) is None
    check_samples_crc(*arguments(r_rebuilt=np.float32(0.1), d_rebuilt=0.0, po=None, po_rebuilt="anything"))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"r_rebuilt": 0.2},
            r"^rew of time step 12 \(3 since the reset\) .* expected array\(0\.1, .* found array\(0\.2",
        ),
        ({"a_rebuilt": np.float64([1])}, "^act of time step 12"),
        ({"a_rebuilt": np.float32([1]).view(np.int32)}, "^act of time step 12"),
        ({"a_rebuilt": np.float32([[1]])}, "^act of time step 12"),
        ({"a_rebuilt": np.float32([np.nextafter(np.float32(1), np.float32(2))])}, "^act of time step 12"),
        ({"a": np.float32([0.0]), "a_rebuilt": np.float32([-0.0])}, "^act of time step 12"),
        ({"po_rebuilt": None}, "^prev_obs/image of time step 12 .* found None"),
        (
            {"o_rebuilt": {"image": np.arange(4, dtype=np.uint8), "speed": (2.5,)}},
            "^obs/speed/0 of time step 12",
        ),
        ({"o_rebuilt": {"image": np.arange(4, dtype=np.uint8)}}, "^obs/speed/0 of time step 12"),
        ({"d_rebuilt": True}, "^terminated of time step 12"),
        ({"t_rebuilt": True}, "^truncated of time step 12"),
    ],
)
def test_check_samples_crc_names_the_leaf_the_step_and_both_values(changes, message):
    with pytest.raises(IntegrityError, match=message):
        check_samples_crc(*arguments(**changes))


def test_long_arrays_that_print_alike_are_told_apart():
    long, other = np.zeros(5000), np.zeros(5000)
    other[2500] = 1e-9
    assert str(long) == str(other)
    with pytest.raises(IntegrityError, match=r"^act of time step"):
        check_samples_crc(*arguments(a=long, a_rebuilt=other))


def test_equal_data_never_fails():
    nan = np.array([np.nan, -0.0])
    objects = np.array(["a", 2.5], object)
    check_samples_crc(*arguments(a=nan, a_rebuilt=nan.copy(), o=objects, o_rebuilt=objects.copy()))


def test_checks_are_made_without_asserts_too():
    script = (
        "from tmrl.memory import check_samples_crc\n"
        "try: check_samples_crc(0., 1., 2., 3., False, False, 0., 1., 2., 4., False, False, 1, 1)\n"
        "except AssertionError: print('caught')\n"
    )
    found = subprocess.run([sys.executable, "-O", "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout == "caught\n"


# Datasets


def dump(folder, columns):
    (folder / "data.pkl").write_bytes(pickle.dumps(columns))
    return folder


def test_dataset_fills_the_memory_and_can_be_extended(tmp_path):
    columns = [[1, 2, 3], [np.ones(2), np.zeros(2), np.ones(2)]]
    memory = ColumnMemory("cpu", dataset_path=str(dump(tmp_path, columns)))
    assert len(memory) == 2
    memory.data[0] += [4]
    assert memory.data[0] == [1, 2, 3, 4]


def test_no_dataset_path_reads_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(dump(tmp_path, [[1, 2]]))
    assert ColumnMemory("cpu", dataset_path="").data == []


def test_folder_without_a_dataset_starts_empty_and_is_logged(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        assert ColumnMemory("cpu", dataset_path=tmp_path).data == []
    assert f"dataset_path='{tmp_path}' holds no data.pkl: the memory starts empty" in caplog.text


def test_dataset_longer_than_the_memory_keeps_the_newest(tmp_path, caplog):
    folder = dump(tmp_path, [list(range(10)), np.arange(10)])
    memory = ColumnMemory("cpu", memory_size=3.0, dataset_path=folder)
    assert len(memory) == 3
    assert memory.data[0] == [6, 7, 8, 9]
    assert memory.data[1].tolist() == [6, 7, 8, 9]
    assert "holds 9 transitions, more than memory_size=3: the newest are kept" in caplog.text


def test_dataset_in_an_unknown_layout_is_kept_whole(tmp_path, caplog):
    folder = dump(tmp_path, [transition(i) for i in range(5)])
    assert len(ListMemory("cpu", memory_size=3, dataset_path=folder)) == 5
    assert "more than memory_size=3: all are kept, because only the memory knows" in caplog.text


def test_dataset_that_names_code_is_refused(tmp_path):
    with pytest.raises(UnsafePickleError, match=r"names .*ListMemory"):
        ColumnMemory("cpu", dataset_path=dump(tmp_path, [ListMemory]))


def test_memory_can_be_pickled_and_goes_on():
    memory = pickle.loads(pickle.dumps(filled_memory()))
    memory.append(filled_buffer(1))
    assert len(memory) == 5
    assert statistics(memory) == (1.5, 2.5, 3, 4)
