"""State files: what is written comes back to the bit, and nothing else is ever made of a file."""

import collections
import pickle
import random
import socket
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tmrl.datasets.files import checksum_of
from tmrl.errors import DatasetError
from tmrl.training.state_file import MANY, check_state, read_state, write_state
from tmrl.transition import Sample, Stamp


def back(state: Any, folder: Path) -> Any:
    checksum = write_state(folder / "x.state.safetensors", state)
    result = read_state(folder, "x.state.safetensors", checksum)
    (folder / "x.state.safetensors").unlink()
    return result


def described(value: Any) -> Any:
    """Kind, dtype, shape and bits of everything in a nest."""
    if isinstance(value, torch.Tensor):
        octets = value.detach().contiguous().reshape(-1).view(torch.uint8)
        return ("tensor", value.dtype, tuple(value.shape), octets.numpy().tobytes())
    if isinstance(value, np.ndarray | np.generic):
        return (type(value), value.dtype.descr, value.shape, value.tobytes())
    if isinstance(value, dict):
        return (type(value), [(described(key), described(part)) for key, part in value.items()])
    if isinstance(value, list | tuple | collections.deque):
        fields = getattr(value, "_fields", None)
        kind = type(value) if fields is None else (type(value).__name__, fields)
        extra = getattr(value, "stamp", None) or getattr(value, "maxlen", None)
        return (kind, extra, [described(part) for part in value])
    return (type(value), repr(value))


class Pose(NamedTuple):
    x: Any
    y: Any


RNG = np.random.default_rng(0)
NESTS = {
    "numbers": [True, 1, -1, 2**200, 0.1, -0.0, float("nan"), float("inf"), None, "é\ud800", b"\x00\xff", ""],
    "containers": (
        [],
        (),
        {},
        [()],
        {"a": {}},
        {1: 2, "1": 3, (1, 2): 4, None: 5, 0.5: 6},
        {1, 2},
        frozenset("a"),
    ),
    "more containers": [
        collections.OrderedDict(b=1, a=2),
        collections.Counter("aab"),
        collections.deque([1, 2], 5),
        collections.deque([np.ones(2)]),
        Pose(1, np.zeros(2)),
    ],
    "a dict with dots in its keys": {
        "a.b": torch.ones(1),
        "a": {"b": torch.zeros(1)},
        3: {"x": torch.ones(2)},
    },
    "arrays": [
        RNG.standard_normal((3, 4)),
        RNG.standard_normal((3, 4)).T,
        np.array(3.5, np.float32),
        np.zeros((0, 3), np.int8),
        np.array(["a", "bcd"]),
        np.array([b"a", b"bcd"]),
        np.array(["2026-01-01"], "datetime64[ns]"),
        np.array([(1, [2.5, 3.5])], [("a", "i2"), ("b", "f4", (2,))]),
        np.arange(4, dtype=">i4"),
        np.array([1 + 2j], np.complex64),
        *(np.ones(2, dtype) for dtype in "?bBhHiIlLqQefdgFD"),
    ],
    "scalars": [np.float32(0.1), np.int64(5), np.bool_(True), np.str_("x"), np.datetime64("2026", "s")],
    "tensors": [
        *(
            torch.arange(6).to(dtype).reshape(2, 3)
            for dtype in (
                *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
                *(
                    torch.float16,
                    torch.bfloat16,
                    torch.float32,
                    torch.float64,
                    torch.complex64,
                    torch.complex128,
                ),
            )
        ),
        torch.tensor(3.0),
        torch.empty(0, 2),
        torch.arange(6).reshape(2, 3).T,
        torch.arange(3).expand(2, 3),
        torch.nn.Parameter(torch.ones(2)),
        torch.tensor([float("nan"), -0.0]),
    ],
    "many of a kind": [
        [RNG.standard_normal(3) for _ in range(MANY)],
        [np.array(i) for i in range(MANY)],
        [np.float32(i) for i in range(MANY)],
        [np.zeros(0)] * MANY,
        [float(i) for i in range(MANY)],
    ],
    "many of several kinds": [
        [np.zeros(i % 2) for i in range(MANY)],
        [np.zeros(2, "f4" if i else "f8") for i in range(MANY)],
        [np.zeros(2) if i else None for i in range(MANY)],
        [np.float32(i) if i else np.float64(i) for i in range(MANY)],
        [np.str_("a" * (i + 1)) for i in range(MANY)],
    ],
    "samples": [Sample((np.ones(2), 1.0, {"k": 2}), Stamp("ann", 1, 2, 3, 4, "demo")) for _ in range(MANY)],
    "random states": [
        random.Random(3).getstate(),
        np.random.get_state(legacy=False),  # noqa: NPY002
        np.random.default_rng(3).bit_generator.state,
        torch.Generator().manual_seed(3).get_state(),
    ],
}


@pytest.mark.parametrize("name", NESTS)
def test_every_kind_dtype_and_bit_comes_back(name: str, tmp_path: Path) -> None:
    state = {"x": NESTS[name]}
    assert described(back(state, tmp_path)) == described(state)


def test_what_is_read_is_the_readers_own(tmp_path: Path) -> None:
    array, tensor, one, *_ = back([np.zeros(2), torch.zeros(2), *[np.zeros(2)] * MANY], tmp_path)
    array[:], tensor[:], one[:] = 1, 1, 1
    assert array.base is None


def test_an_array_in_two_places_is_written_once_and_is_one_again(tmp_path: Path) -> None:
    large = np.zeros(10_000)
    empty, other = np.zeros(0), np.zeros((0, 1))
    checksum = write_state(tmp_path / "x", [large, (large, {"k": large}), empty, other, large.copy()])
    assert (tmp_path / "x").stat().st_size < 2.1 * large.nbytes
    first, (second, third), *empties, fourth = read_state(tmp_path, "x", checksum)
    assert first is second is third["k"]
    assert fourth is not first
    assert [array.shape for array in empties] == [(0,), (0, 1)]


def test_tensors_that_share_memory_are_written_each(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    state = {"whole": whole, "part": whole[2:4], "again": whole}
    assert described(back(state, tmp_path)) == described(state)


def test_any_tool_reads_the_tensors_by_their_places(tmp_path: Path) -> None:
    network = torch.nn.Linear(2, 1)
    write_state(tmp_path / "x.state.safetensors", {"agent": {"actor": network.state_dict()}})
    assert torch.equal(load_file(tmp_path / "x.state.safetensors")["agent.actor.weight"], network.weight)


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else []


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"memory": {"data": [0, [1, lambda: 0]]}}, r"memory\.data\[1\]\[1\] is a lambda"),
        ({"agent": {"log": print}}, r"agent\.log is a builtin_function_or_method"),
        ({"agent": {"line": socket.socket}}, r"agent\.line is a type"),
        ({"agent": {3: object()}}, r"agent\[3\] is a object"),
        ({"agent": {Path("x"): 1}}, r"the key agent\[PosixPath\('x'\)\] is a PosixPath"),
        ({"a": np.array([None])}, "a is an array of objects"),
        ({"a": torch.ones(2).to_sparse()}, "a is a tensor that is not dense"),
        ({"a": torch.ones(2, device="meta")}, "a is a tensor that is not dense"),
        ({"a": nested(70)}, "is nested more than 64 deep"),
        ({"a": [object()] * 1000}, r"a\[0\] is a object, (a\[.\] is a object(, )?){4}; for an attribute"),
    ],
)
def test_what_cannot_be_written_is_named_by_its_place(state: Any, message: str, tmp_path: Path) -> None:
    for act in (check_state, lambda state: write_state(tmp_path / "x", state)):
        with pytest.raises(TypeError, match=message):
            act(state)
    assert list(tmp_path.iterdir()) == []


def test_tensors_that_were_not_on_the_cpu_go_to_the_device_of_the_reader(tmp_path: Path) -> None:
    tensors = {
        "/tree": torch.tensor(
            list(b'["list", [["tensor", "a", false, false], ["tensor", "b", false, true]]]')
        ),
        "/arrays": torch.zeros(0),
        "a": torch.ones(1),
        "b": torch.ones(1),
    }
    octets = {name: tensor.to(torch.uint8) if name[0] == "/" else tensor for name, tensor in tensors.items()}
    save_file(octets, tmp_path / "x")
    first, second = read_state(tmp_path, "x", checksum_of(tmp_path / "x"), "meta")
    assert (first.device.type, second.device.type) == ("meta", "cpu")


class Trap:
    def __reduce__(self) -> Any:
        return Path("trapped").touch, ()


def test_a_pickle_in_place_of_a_state_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if its checksum is right."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "x"
    for write in (lambda: file.write_bytes(pickle.dumps(Trap())), lambda: torch.save(Trap(), file)):
        write()
        with pytest.raises(DatasetError, match="x must hold a state as a checkpoint has it, but"):
            read_state(tmp_path, "x", checksum_of(file))
    assert not Path("trapped").exists()


@pytest.mark.parametrize(
    "tree",
    [
        b"",
        b"[",
        b'["system", "ls"]',
        b'["array", "O", [1], 0]',
        b'["array", "f8", [9], 0]',
        b'["dict"]',
        b"[[]]",
    ],
)
def test_a_forged_tree_is_refused(tree: bytes, tmp_path: Path) -> None:
    tensors = {
        "/tree": torch.tensor(list(tree), dtype=torch.uint8),
        "/arrays": torch.zeros(8, dtype=torch.uint8),
    }
    save_file(tensors, tmp_path / "x")
    with pytest.raises(DatasetError, match="must hold a state as a checkpoint has it"):
        read_state(tmp_path, "x", checksum_of(tmp_path / "x"))


def test_a_damaged_or_missing_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "x"
    checksum = write_state(file, {"a": np.arange(5)})
    for place in (0, 100, file.stat().st_size - 1):
        damaged = bytearray(file.read_bytes())
        damaged[place] ^= 1
        (tmp_path / "y").write_bytes(damaged)
        with pytest.raises(DatasetError, match="y is damaged: its checksum differs"):
            read_state(tmp_path, "y", checksum)
    with pytest.raises(DatasetError, match="is incomplete: 'z' is missing"):
        read_state(tmp_path, "z", checksum)
    with pytest.raises(DatasetError, match=r"is incomplete: '\.\./x' is missing"):
        read_state(tmp_path / "y", "../x", checksum)
