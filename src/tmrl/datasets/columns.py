"""Named columns, an array a leaf with an entry a sample, as rows: checked, and cast only where need be."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmrl.errors import DatasetError, SchemaError
from tmrl.rows import Rows
from tmrl.schema import Leaf, Nest, Schema
from tmrl.schema_json import DTYPES, MAX_DEPTH, MAX_LEAF_BYTES

Columns = Mapping[str, NDArray[Any]]


def is_under(name: str, root: str) -> bool:
    """Whether a column is `root` or a leaf of it, as `obs/camera` is of `obs`."""
    return name == root or name.startswith(f"{root}/")


def n_samples(columns: Columns, names: Iterable[str]) -> int:
    """The length of all these columns.

    Raises:
        DatasetError: They differ, or one is missing.
    """
    lengths: dict[str, int] = {}
    for name in names:
        if name not in columns:
            raise DatasetError(
                f"it must hold {name!r}, but holds only {', '.join(sorted(columns)) or 'nothing'}"
            )
        if columns[name].ndim == 0:
            raise DatasetError(f"{name} must have one entry a sample, found a single one")
        lengths[name] = len(columns[name])
    if len(set(lengths.values())) > 1:
        raise DatasetError(f"its columns must be of one length, found {lengths}")
    return next(iter(lengths.values()))


def schema_of_columns(columns: Columns) -> tuple[Schema, list[str]]:
    """The layout that columns show, and which columns of info it leaves out, one sentence each.

    Raises:
        DatasetError: No row can hold the observations or the actions.
    """
    info: dict[str, Nest] = {}
    remarks: list[str] = []
    for root in sorted({"/".join(name.split("/")[:2]) for name in columns if name.startswith("info/")}):
        try:
            nest = nest_of_columns(root, columns)
        except DatasetError as error:
            remarks.append(f"{root} was left out: {error}")
        else:
            info[_unescaped(root.removeprefix("info/"))] = nest
    return Schema(nest_of_columns("obs", columns), nest_of_columns("act", columns), info), remarks


def nest_of_columns(root: str, columns: Columns) -> Nest:
    """The nest that the names of columns show: a tuple where they are numbers from 0 on, else a dict.

    Raises:
        DatasetError: There are none, they contradict each other, or no row can hold them.
    """
    names = [name for name in columns if is_under(name, root)]
    if not names:
        raise DatasetError(f"it must hold {root!r}, but holds only {', '.join(sorted(columns)) or 'nothing'}")
    tree: dict[str, Any] = {}
    for name in names:
        *branches, last = [root, *name.split("/")[1 + root.count("/") :]]
        if len(branches) > MAX_DEPTH:
            raise DatasetError(
                f"a nest must be at most {MAX_DEPTH} deep, but a name has {len(branches)} parts"
            )
        node = tree
        for branch in branches:
            node = node.setdefault(branch, {})
            if not isinstance(node, dict):
                break
        if not isinstance(node, dict) or last in node:
            raise DatasetError(f"{name} must be either an array or a nest, but is both")
        node[last] = _example(name, columns[name])
    try:
        nest = Nest.infer(root, _as_nest(tree[root]))
    except SchemaError as error:
        raise DatasetError(str(error)) from error
    if {leaf.name for leaf in nest.leaves} != set(names):
        raise DatasetError(f"{root}: names must be written as in obs/arms/0, with ~1 for a /, found {names}")
    return nest


def _example(name: str, column: NDArray[Any]) -> NDArray[Any]:
    if column.dtype.name not in DTYPES:
        raise DatasetError(f"{name} must hold numbers, found {column.dtype}")
    n_bytes = column.dtype.itemsize
    for length in column.shape[1:]:
        n_bytes *= length
    if column.ndim == 0 or n_bytes > MAX_LEAF_BYTES:
        raise DatasetError(
            f"{name} must have one entry of sensible size a sample, found shape {column.shape}"
        )
    return np.broadcast_to(np.zeros((), column.dtype), column.shape[1:])


def _as_nest(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    parts: dict[str, Any] = {_unescaped(key): _as_nest(part) for key, part in tree.items()}
    numbers = [str(number) for number in range(len(parts))]
    return tuple(parts[number] for number in numbers) if set(parts) == set(numbers) else parts


def _unescaped(part: str) -> str:
    return part.replace("~1", "/").replace("~0", "~")


def put_leaf(rows: Rows, leaf: Leaf, column: NDArray[Any]) -> None:
    """Copies a column into rows.

    Raises:
        DatasetError: It has another dtype or shape.
    """
    expected = (len(rows), *leaf.shape)
    if column.dtype != leaf.dtype or column.shape != expected:
        raise DatasetError(
            f"{leaf.name} must be {leaf.dtype_name} of shape {expected}, found {column.dtype} of "
            f"{column.shape}"
        )
    rows[leaf.name] = column


def flags_of(name: str, column: NDArray[Any]) -> NDArray[np.bool_]:
    """A column of flags, which may have been written as numbers.

    Raises:
        DatasetError: One is neither 0 nor 1.
    """
    is_flag = column.dtype == np.bool_ or (
        column.dtype.kind in "iuf" and bool(((column == 0) | (column == 1)).all())
    )
    if column.ndim != 1 or not is_flag:
        raise DatasetError(
            f"{name} must hold True or False, one a sample, found {column.dtype} of {column.shape}"
        )
    return column.astype(np.bool_)


def rewards_of(column: NDArray[Any], remarks: list[str]) -> NDArray[np.float32]:
    """A column of rewards as float32; adds a remark if that lost something.

    Raises:
        DatasetError: It holds no numbers.
    """
    if column.ndim != 1 or column.dtype.kind not in "biuf":
        raise DatasetError(f"rew must hold numbers, one a sample, found {column.dtype} of {column.shape}")
    with np.errstate(over="ignore"):
        rewards = column.astype(np.float32)
    if not np.array_equal(rewards, column, equal_nan=True):
        remarks.append(f"rewards of {column.dtype} were rounded to float32")
    return rewards
