"""Packing: samples are checked against a schema, all at once, and become rows.

The work goes column by column: a thousand observations are one set of types, one set of shapes, one set of
dtypes and one `b"".join`, about 0.5 us a sample; one by one they cost ten times as much. Whatever does not
pass goes through a slow path that either finds the value harmless (a Python number where the schema has a
NumPy one) or says exactly which sample is wrong and how.

Samples that arrive one at a time have a path of their own, `_ScalarPath`, for which the column machinery is
all overhead. Property tests hold the two together.
"""

import struct
import sys
from collections.abc import Collection, Sequence, Sized
from math import isfinite
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from tmrl.errors import BadSampleError, IntegrityError
from tmrl.integrity import crc_record
from tmrl.nest import as_array
from tmrl.rows import Rows
from tmrl.schema import Branch, Leaf, Nest, Schema, branch_of
from tmrl.transition import SAMPLE_FIELDS

Column = Sequence[Any]
"""The values of one field, one a sample."""

_NUMBER = (int, float, np.number, np.bool_)
_REAL = (int, float, np.integer, np.floating, np.bool_)
_FLOATS = frozenset((float, np.float32, np.float64))
_BOOLS = frozenset((bool, np.bool_))
_MISSING = object()
_LARGEST = sys.float_info.max
_FLAG = {False: b"\0", True: b"\1"}
_REWARD = struct.Struct("=f")


class Packer:
    """Checks samples against a schema and packs them into rows.

    Args:
        schema: What the rows look like.
        finite: Names of fields, or of single leaves, that must hold no NaN and no infinity.

    Raises:
        ValueError: A name in `finite` is not in the schema.
    """

    def __init__(self, schema: Schema, finite: Collection[str] = ("rew", "act")) -> None:
        self.schema = schema
        self._finite = frozenset(name for name in _names(schema) if is_named(name, finite))
        for name in finite:
            if not any(is_named(leaf, (name,)) for leaf in _names(schema)):
                raise ValueError(
                    f"finite must name fields of the schema ({', '.join(_names(schema))}), got {name!r}"
                )
        self._branches = {
            "act": branch_of("act", schema.act),
            "obs": branch_of("obs", schema.obs),
            **{f"info[{key!r}]": branch_of(f"info[{key!r}]", nest) for key, nest in schema.info.items()},
        }
        self._scalar = _ScalarPath(schema, self._finite)

    def pack(self, samples: Sequence[Any]) -> Rows:
        """Copies samples into new rows.

        Raises:
            BadSampleError: A sample does not fit; the message names worker, field, expected and found.
            IntegrityError: In CRC mode, a sample carries no checksums, or those of other leaves.
        """
        if len(samples) == 1 and (row := self._scalar.pack(samples[0])) is not None:
            return np.frombuffer(bytearray(row), self.schema.row_dtype)
        check_lengths(samples)
        acts, obs, rews, terminated, truncated, infos = zip(*samples, strict=True)
        rows = np.zeros(len(samples), self.schema.row_dtype)
        _Work(self, samples, rows).fill(acts, obs, rews, terminated, truncated, infos)
        return rows

    def branch(self, name: str) -> Branch | Leaf:
        """The walk of one field."""
        return self._branches[name]

    def must_be_finite(self, leaf: Leaf) -> bool:
        """Whether NaN and infinity are refused in this leaf."""
        return leaf.name in self._finite


def check_lengths(samples: Sequence[Any]) -> None:
    """Refuses samples that are not six values long.

    Raises:
        BadSampleError: One is not.
    """
    try:
        if set(map(len, samples)) <= {len(SAMPLE_FIELDS)}:
            return
    except TypeError:  # something that has no length
        pass
    for index, sample in enumerate(samples):
        found = f"{len(sample)}" if isinstance(sample, Sized) else _brief(sample)
        if found != f"{len(SAMPLE_FIELDS)}":
            expected = f"the {len(SAMPLE_FIELDS)} values ({', '.join(SAMPLE_FIELDS)})"
            refuse(samples, index, "sample", expected, found)


def refuse(samples: Sequence[Any], index: int, name: str, expected: str, found: str) -> NoReturn:
    """Refuses what arrived because of one field of one sample.

    Raises:
        BadSampleError: Always.
    """
    raise BadSampleError(
        f"worker {worker_of(samples[index])!r}, sample {index} of {len(samples)}: {name}: expected "
        f"{expected}, found {found}; all {len(samples)} samples were refused and the memory is as it was"
    )


def worker_of(sample: Any) -> str:
    """Name of the worker that produced a sample; `unstamped` if it does not say."""
    stamp = getattr(sample, "stamp", None)
    return "unstamped" if stamp is None else stamp.worker


def _names(schema: Schema) -> list[str]:
    return [leaf.name for leaf in schema.leaves if not leaf.name.startswith("crc/")]


def is_named(leaf: str, names: Collection[str]) -> bool:
    """Whether a leaf, or a field that holds it, is one of the names."""
    return any(leaf == name or leaf.startswith(f"{name}/") for name in names)


class _Work:
    """One call of `Packer.pack`: the samples, for messages, and the rows being filled."""

    def __init__(self, packer: Packer, samples: Sequence[Any], rows: Rows) -> None:
        self.packer = packer
        self.schema = packer.schema
        self.samples = samples
        self.rows = rows

    def fill(
        self, acts: Column, obs: Column, rews: Column, terminated: Column, truncated: Column, infos: Column
    ) -> None:
        self.nest(self.packer.branch("obs"), obs)
        self.nest(self.packer.branch("act"), self.without_none(acts))
        self.rewards(rews)
        self.flags("terminated", terminated)
        self.flags("truncated", truncated)
        for key, nest in self.schema.info.items():
            self.nest(self.packer.branch(f"info[{key!r}]"), self.info_column(key, nest, infos))
        if self.schema.with_crc:
            self.checksums(infos)

    def refuse(self, index: int, name: str, expected: str, found: str) -> NoReturn:
        refuse(self.samples, index, name, expected, found)

    def without_none(self, acts: Column) -> Column:
        """Replaces `None`, the action of a reset sample, by zeros; a step sample must have an action."""
        if type(None) not in set(map(type, acts)):
            return acts
        for index, (act, sample) in enumerate(zip(acts, self.samples, strict=True)):
            stamp = getattr(sample, "stamp", None)
            if act is None and stamp is not None and stamp.episode_step:
                self.refuse(index, "act", "an action in a step sample", "None")
        zeros = self.schema.act.zeros()
        return [zeros if act is None else act for act in acts]

    def info_column(self, key: str, nest: Nest, infos: Column) -> Column:
        """The values of one entry of `info`; zeros where a reset sample has none."""
        column = [info.get(key, _MISSING) if isinstance(info, dict) else _MISSING for info in infos]
        absent = [index for index, value in enumerate(column) if value is _MISSING]
        zeros = nest.zeros() if absent else None
        for index in absent:
            if not is_reset(self.samples, index):
                self.refuse(index, "info", f"an entry {key!r}, which info_keys names", _brief(infos[index]))
            column[index] = zeros
        return column

    def nest(self, branch: Branch | Leaf, column: Column) -> None:
        """Splits a column of nests into columns of leaves, and packs those."""
        if isinstance(branch, Leaf):
            self.leaf(branch, column)
            return
        kinds = set(map(type, column))
        if not all(map(branch.admits, kinds)):
            index = next(i for i, value in enumerate(column) if not branch.admits(type(value)))
            self.refuse(index, branch.name, f"a {branch}", _brief(column[index]))
        # A defaultdict would make up a value for a key that it lacks, and keep it.
        if set(map(len, column)) != {len(branch.keys)} or any(hasattr(kind, "__missing__") for kind in kinds):
            self.check_keys(branch, column)
        try:
            columns = [[value[key] for value in column] for key in branch.keys]
        except KeyError:
            self.check_keys(branch, column)
            raise
        for child, values in zip(branch.children, columns, strict=True):
            self.nest(child, values)

    def check_keys(self, branch: Branch, column: Column) -> None:
        """Refuses a container of another length or with other keys."""
        keys = set(branch.keys)
        for index, value in enumerate(column):
            if branch.kind is not dict and len(value) != len(keys):
                self.refuse(index, branch.name, f"{len(keys)} entries", f"{len(value)}")
            if branch.kind is dict and set(value) != keys:
                parts = {"missing": keys - set(value), "extra": set(value) - keys}
                found = (f"{_listed(part)} {what}" for what, part in parts.items() if part)
                self.refuse(index, branch.name, f"the keys {_listed(keys)}", " and ".join(found))

    def leaf(self, leaf: Leaf, column: Column) -> None:
        values = _join(leaf, column)
        if values is None:
            values = np.stack([self.coerce(leaf, i, value) for i, value in enumerate(column)])
        self.store(leaf, values, column)

    def store(self, leaf: Leaf, values: NDArray[Any], column: Column) -> None:
        if self.packer.must_be_finite(leaf):
            finite = is_finite(leaf, values)
            if not finite.all():
                index = int(np.argwhere(~finite)[0][0])
                self.refuse(index, leaf.name, f"finite numbers ({leaf.dtype_name})", _brief(column[index]))
        self.rows[leaf.name] = values

    def coerce(self, leaf: Leaf, index: int, value: Any) -> NDArray[Any]:
        """The slow path: one value as an array of exactly the leaf's dtype and shape."""
        try:
            array, is_bfloat16 = as_array(value)
        except (ValueError, TypeError, RuntimeError):
            array, is_bfloat16 = np.empty((), object), False
        if array.dtype.kind not in "biufc":
            self.refuse(index, leaf.name, str(leaf), _brief(value))
        if array.shape != leaf.shape or array.dtype != leaf.dtype or is_bfloat16 != leaf.is_bfloat16:
            found = f"{'bfloat16' if is_bfloat16 else array.dtype.name} of shape {array.shape}"
            self.refuse(index, leaf.name, f"{leaf} (no cast is made unasked)", found)
        return array

    def rewards(self, column: Column) -> None:
        leaf = Leaf("rew", np.dtype(np.float32), ())
        if not all(map(_is_real, set(map(type, column)))):
            column = [self.number("rew", "a number", i, value) for i, value in enumerate(column)]
        try:
            with np.errstate(over="ignore"):
                values = np.array(column, np.float32)
        except OverflowError:  # of a python int; others become infinite
            index = next(i for i, value in enumerate(column) if not -_LARGEST <= value <= _LARGEST)
            self.refuse(index, "rew", "finite numbers (float32)", _brief(column[index]))
        self.store(leaf, values, column)

    def number(self, name: str, expected: str, index: int, value: Any) -> Any:
        """A real number as it is; one in an array or a tensor of no dimension as a Python number."""
        if _is_real(type(value)):
            return value
        try:
            array, is_bfloat16 = as_array(value)
        except (ValueError, TypeError, RuntimeError):
            array, is_bfloat16 = np.empty((), object), False
        if array.shape or array.dtype.kind not in "biuf":
            self.refuse(index, name, expected, _brief(value))
        return (array.astype(np.uint32) << 16).view(np.float32).item() if is_bfloat16 else array.item()

    def flags(self, name: str, column: Column) -> None:
        if not set(map(type, column)) <= _BOOLS:
            column = [self.number(name, "True or False", i, value) for i, value in enumerate(column)]
            for index, value in enumerate(column):
                if value not in {0, 1}:
                    self.refuse(index, name, "True or False", _brief(value))
        self.rows[name] = np.array(column, np.bool_)

    def checksums(self, infos: Column) -> None:
        """Keeps the worker's checksums beside the row; a reset sample has none of a transition."""
        names = self.schema.crc_names
        for index, info in enumerate(infos):
            record = crc_record(info)
            fields = record["fields"]
            self.rows["crc/episode"][index] = record["episode"]
            self.rows["crc/step"][index] = record["step"]
            if set(fields) == set(names):
                self.rows["crc/fields"][index] = [fields[name] for name in names]
            elif not is_reset(self.samples, index):
                raise IntegrityError(
                    f"worker {record['worker']!r}, step {record['step']}: the worker saw the leaves "
                    f"{sorted(fields)}, the memory stores {sorted(names)}; a sample_compressor that changes "
                    "the nest needs a memory that undoes it"
                )


def is_reset(samples: Sequence[Any], index: int) -> bool:
    """Whether a sample begins an episode, or a plain one may: no transition ends in it."""
    stamp = getattr(samples[index], "stamp", None)
    if stamp is not None:
        return stamp.episode_step == 0
    if samples[index][0] is None or index == 0:
        return True
    before = samples[index - 1]
    return hasattr(before, "stamp") or bool(before[3]) or bool(before[4])


def _join(leaf: Leaf, column: Column) -> NDArray[Any] | None:
    """All values of a leaf in one copy, if they are alike and fit; None sends them down the slow path."""
    kinds = set(map(type, column))
    if len(kinds) > 1 or leaf.is_bfloat16:
        return None
    kind = kinds.pop()
    if kind is np.ndarray:
        shapes, dtypes = {value.shape for value in column}, {value.dtype for value in column}
        if shapes != {leaf.shape} or dtypes != {leaf.dtype}:
            return None
        try:
            joined = b"".join(column)
        except (BufferError, ValueError, TypeError):  # not contiguous
            return np.stack(column)
        return np.frombuffer(joined, leaf.dtype).reshape(len(column), *leaf.shape)
    if leaf.shape or not issubclass(kind, _NUMBER) or np.asarray(column[0]).dtype != leaf.dtype:
        return None
    try:
        return np.array(column, leaf.dtype)
    except OverflowError:
        return None


def is_finite(leaf: Leaf, values: NDArray[Any]) -> NDArray[np.bool_]:
    """Which values of a leaf are neither NaN nor infinite."""
    if leaf.is_bfloat16:
        return (values & 0x7F80) != 0x7F80
    return np.isfinite(values) if leaf.dtype.kind in "fc" else np.ones(values.shape, np.bool_)


def _is_real(kind: type) -> bool:
    # NumPy has a time span as an integer.
    return issubclass(kind, _REAL) and not issubclass(kind, np.timedelta64)


def _listed(keys: Collection[Any]) -> str:
    return ", ".join(sorted(map(repr, keys)))


def _brief(value: Any) -> str:
    text = repr(value).replace("\n", " ")
    return f"{type(value).__name__} {text if len(text) <= 80 else text[:77] + '...'}"


class _ScalarPath:
    """Packs a single sample of arrays: about 4 us where the columns would cost 40."""

    def __init__(self, schema: Schema, finite: frozenset[str]) -> None:
        tail = ("rew", "terminated", "truncated")
        self._obs = schema.obs.treespec
        self._act = schema.act.treespec
        leaves = (*schema.obs.leaves, *schema.act.leaves)
        self._leaves = [
            (leaf.dtype, leaf.shape, leaf.name in finite and leaf.dtype.kind in "fc") for leaf in leaves
        ]
        names = [*(leaf.name for leaf in leaves), *tail]
        self._order = [names.index(leaf.name) for leaf in schema.leaves if leaf.name in names]
        self._padding = bytes(schema.row_dtype.itemsize - schema.payload_bytes)
        self._is_able = not (schema.info or schema.with_crc or any(leaf.is_bfloat16 for leaf in leaves))

    def pack(self, sample: Any) -> bytes | None:
        """The row's bytes; None if anything is out of the ordinary, good or bad."""
        if not self._is_able:
            return None
        try:
            act, obs, rew, terminated, truncated, _ = sample
        except (ValueError, TypeError):  # not six
            return None
        if type(rew) not in _FLOATS or type(terminated) not in _BOOLS or type(truncated) not in _BOOLS:
            return None
        try:
            values: list[Any] = self._obs.flatten_up_to(obs) + self._act.flatten_up_to(act)
            parts = [_REWARD.pack(rew), _FLAG[bool(terminated)], _FLAG[bool(truncated)]]
        except (ValueError, OverflowError):
            return None
        if not isfinite(rew):  # float32 has several NaNs
            return None
        leaves: list[bytes] = []
        for value, (dtype, shape, is_finite) in zip(values, self._leaves, strict=True):
            if type(value) is not np.ndarray or value.dtype != dtype or value.shape != shape:
                return None
            if is_finite and b"\0" in np.isfinite(value).tobytes():  # half the time of `all`
                return None
            leaves.append(value.tobytes())
        leaves += parts
        return b"".join([leaves[i] for i in self._order]) + self._padding
