"""State files: nests of containers, numbers, text, arrays and tensors, exact to the bit, and without pickle.

A state file is a safetensors file. Each torch tensor of the nest is a tensor of the file, named after its
place. NumPy arrays, of which a memory may hold millions, lie one behind the other in `/arrays`, as bytes.
`/tree` is JSON: the containers and everything small, with `[kind, ...]` wherever JSON has no kind of its own.
Reading makes nothing but these kinds, so nothing that is read is executed.
"""

import json
from base64 import b64decode, b64encode
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FunctionType
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from tmrl.datasets.files import checked_file, checksum_of, sync
from tmrl.errors import DatasetError
from tmrl.schema_json import namedtuple_class
from tmrl.transition import Sample, Stamp

SUFFIX = ".state.safetensors"
TREE, ARRAYS = "/tree", "/arrays"
"""Tensors of the file that are none of the nest: no place begins with a slash."""
MANY = 16
"""Length from which a list of arrays of one dtype and shape is written as one array."""
MAX_DEPTH = 64
MAX_NAMED = 5
"""Refused parts that a message names."""

_SEQUENCES: dict[str, Any] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
_MAPPINGS: dict[str, Any] = {"dict": dict, "OrderedDict": OrderedDict, "Counter": Counter}
_KINDS = {kind: name for name, kind in (_SEQUENCES | _MAPPINGS).items()}


def check_state(state: Any) -> None:
    """Checks, without writing anything, that a nest can be written.

    Raises:
        TypeError: It holds something else than a state file can; the message names the places.
    """
    _encoded(state)


def write_state(file: Path, state: Any) -> int:
    """Writes a nest to a new file, down to the disk, and returns the checksum of the file.

    Raises:
        TypeError: As `check_state` does; nothing is written.
    """
    encoder = _encoded(state)
    tensors = encoder.tensors_to_write()
    save_file(tensors, file)
    with file.open("r+b") as stream:
        sync(stream)
    return checksum_of(file)


def read_state(folder: Path, name: str, checksum: int, device: Any = "cpu") -> Any:
    """Reads the nest that `write_state` wrote.

    Args:
        folder: Where the file is; nothing outside of it is opened.
        name: The file's name.
        checksum: As `write_state` returned it.
        device: Where tensors go that were not on the CPU.

    Raises:
        DatasetError: The file is missing, damaged, or no such file.
    """
    file = checked_file(folder, name, checksum)
    try:
        return _Decoder(load_file(file), device).nest()
    except Exception as error:  # what reads a forged file may raise anything
        raise DatasetError(f"{file} must hold a state as a checkpoint has it, but: {error!r}") from error


def _encoded(state: Any) -> "_Encoder":
    encoder = _Encoder()
    encoder.tree = encoder.node(state, "", 0)
    if encoder.refused:
        raise TypeError(
            "a checkpoint can hold numbers, text, arrays, tensors and built-in containers, but "
            f"{', '.join(encoder.refused)}; for an attribute of the agent that need not be saved, name it in "
            "not_saved, else define state_dict() and load_state_dict(state) where it is"
        )
    return encoder


class _Encoder:
    """Turns a nest into a tree of JSON; arrays and tensors are collected, and copied only when written."""

    def __init__(self) -> None:
        self.tree: Any = None
        self.refused: list[str] = []
        self._tensors: dict[str, torch.Tensor] = {}
        self._arrays: list[Sequence[Any]] = []
        self._written: dict[int, Any] = {}
        self._n_bytes = 0

    def node(self, value: Any, place: str, depth: int) -> Any:
        """The JSON of one value; what cannot be written is noted by its place."""
        kind: type[Any] = type(value)
        if value is None or kind in {bool, int, float, str}:
            return value
        if isinstance(value, torch.Tensor):
            return self._tensor(value, place)
        if kind is np.ndarray:
            if id(value) not in self._written:  # as samples in two transitions are
                self._written[id(value)] = self._array("array", [value], (), place)
            return self._written[id(value)]
        if isinstance(value, np.generic):
            return self._array("scalar", [value], (), place)
        if kind is bytes:
            return ["bytes", b64encode(value).decode()]
        return self._container(value, kind, place, depth)

    def _container(self, value: Any, kind: type[Any], place: str, depth: int) -> Any:
        if depth > MAX_DEPTH:
            return self._refuse(place, f"nested more than {MAX_DEPTH} deep")
        if kind is list and len(value) >= MANY and _are_alike(value):
            name = "arrays" if type(value[0]) is np.ndarray else "scalars"
            return self._array(name, value, (len(value),), place)
        if kind in _MAPPINGS.values():
            return [_KINDS[kind], self._pairs(value, place, depth)]
        if kind in _SEQUENCES.values():
            return [_KINDS[kind], self._nodes(value, place, depth)]
        if kind is deque:
            return ["deque", value.maxlen, self._nodes(value, place, depth)]
        if kind is Sample:
            return ["Sample", list(value.stamp), self._nodes(value, place, depth)]
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            fields = list(cast("Any", value)._fields)
            return ["namedtuple", kind.__name__, fields, self._nodes(value, place, depth)]
        is_lambda = isinstance(value, FunctionType) and value.__name__ == "<lambda>"
        return self._refuse(place, f"a {'lambda' if is_lambda else kind.__name__}")

    def _nodes(self, values: Any, place: str, depth: int) -> list[Any]:
        return [self.node(value, f"{place}[{i}]", depth + 1) for i, value in enumerate(values)]

    def _pairs(self, mapping: Any, place: str, depth: int) -> list[Any]:
        pairs: list[Any] = []
        for key, value in mapping.items():
            inner = f"{place}.{key}".lstrip(".") if isinstance(key, str) else f"{place}[{key!r}]"
            pairs.append([self.node(key, f"the key {inner}", depth + 1), self.node(value, inner, depth + 1)])
        return pairs

    def _tensor(self, tensor: torch.Tensor, place: str) -> Any:
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            return self._refuse(place, f"a tensor that is not dense ({tensor.layout}, {tensor.device})")
        name = place if place not in self._tensors else f"{place}#{len(self._tensors)}"
        self._tensors[name] = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        return ["tensor", name, tensor.is_complex(), tensor.device.type == "cpu"]

    def _array(self, kind: str, items: Sequence[Any], n: tuple[int, ...], place: str) -> Any:
        first = items[0]
        if first.dtype.hasobject:
            return self._refuse(place, "an array of objects")
        offset = self._n_bytes
        self._arrays.append(items)
        self._n_bytes += first.nbytes * len(items)
        descr = self.node(np.lib.format.dtype_to_descr(first.dtype), place, 0)
        return [kind, descr, [*n, *first.shape], offset]

    def _refuse(self, place: str, what: str) -> None:
        if len(self.refused) < MAX_NAMED:
            self.refused.append(f"{place} is {what}")

    def tensors_to_write(self) -> dict[str, torch.Tensor]:
        """All that goes into the file; none shares memory with another, which safetensors would refuse."""
        tensors = {name: _copied(tensor) for name, tensor in self._tensors.items()}
        octets = np.empty(self._n_bytes, np.uint8)
        offset = 0
        for items in self._arrays:
            for item in items:
                octets[offset : offset + item.nbytes] = bytearray(item.tobytes())
                offset += item.nbytes
        tensors[ARRAYS] = torch.from_numpy(octets)
        tensors[TREE] = torch.frombuffer(bytearray(json.dumps(self.tree).encode()), dtype=torch.uint8)
        return tensors


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)


def _are_alike(items: Sequence[Any]) -> bool:
    """Whether these are arrays, or NumPy scalars, all of one dtype and shape."""
    first: Any = items[0]
    kind: type[Any] = type(first)
    if kind is not np.ndarray and not isinstance(first, np.generic):
        return False
    return all(
        type(item) is kind and item.dtype == first.dtype and item.shape == first.shape for item in items
    )


class _Decoder:
    """Turns the tensors of a file back into the nest."""

    def __init__(self, tensors: dict[str, torch.Tensor], device: Any) -> None:
        self._tensors = tensors
        self._device = device
        self._octets = tensors[ARRAYS].numpy()
        self._made: dict[str, NDArray[Any]] = {}
        self._readers: dict[str, Callable[..., Any]] = {
            "bytes": b64decode,
            "deque": self._deque,
            "Sample": self._sample,
            "namedtuple": self._namedtuple,
            "tensor": self._tensor,
            "array": self._shared_array,
            "scalar": self._scalar,
            "arrays": self._list_of_arrays,
            "scalars": self._list_of_scalars,
        }

    def nest(self) -> Any:
        """The nest."""
        return self._value(json.loads(self._tensors[TREE].numpy().tobytes()))

    def _value(self, node: Any) -> Any:
        if not isinstance(node, list):
            return node
        kind, *rest = cast("list[Any]", node)
        if kind in _MAPPINGS:
            return _MAPPINGS[kind]({self._value(key): self._value(value) for key, value in rest[0]})
        if kind in _SEQUENCES:
            return _SEQUENCES[kind](map(self._value, rest[0]))
        return self._readers[kind](*rest)

    def _deque(self, maxlen: int | None, nodes: list[Any]) -> deque[Any]:
        return deque(map(self._value, nodes), maxlen)

    def _sample(self, stamp: list[Any], nodes: list[Any]) -> Sample:
        return Sample(map(self._value, nodes), Stamp(*stamp))

    def _namedtuple(self, name: str, fields: list[str], nodes: list[Any]) -> Any:
        return namedtuple_class(name, tuple(fields))(*map(self._value, nodes))

    def _tensor(self, name: str, is_complex: bool, is_on_cpu: bool) -> torch.Tensor:
        tensor = self._tensors[name].clone()  # of the caller's own, not of the file
        tensor = torch.view_as_complex(tensor) if is_complex else tensor
        return tensor if is_on_cpu else tensor.to(self._device)

    def _array(self, descr: Any, shape: list[int], offset: int) -> NDArray[Any]:
        dtype = np.lib.format.descr_to_dtype(self._value(descr))
        if dtype.hasobject:  # its bytes would be taken for addresses
            raise ValueError(f"an array must hold no objects, got {dtype}")
        return np.ndarray(tuple(shape), dtype, self._octets.data, offset).copy()

    def _shared_array(self, *node: Any) -> NDArray[Any]:
        """One array for each that was written: what was shared is shared again."""
        if repr(node) not in self._made:
            self._made[repr(node)] = self._array(*node)
        return self._made[repr(node)]

    def _scalar(self, descr: Any, shape: list[int], offset: int) -> Any:
        return self._array(descr, shape, offset)[()]

    def _list_of_arrays(self, descr: Any, shape: list[int], offset: int) -> list[NDArray[Any]]:
        stacked = self._array(descr, shape, offset)
        return [stacked[i, ...].copy() for i in range(len(stacked))]

    def _list_of_scalars(self, descr: Any, shape: list[int], offset: int) -> list[Any]:
        return list(self._array(descr, shape, offset))
