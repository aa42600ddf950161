"""Writes a dataset as one of Minari's, in a folder that the caller names.

Minari holds Box-like arrays of numbers in dicts and tuples. What it cannot hold is named before anything is
written; with `drop` it is left out or converted, and reported. Nothing is written beside the folder, and
images are not made JPEGs, which would lose bits.
"""

import json
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmrl.datasets.dataset import Dataset, Episode
from tmrl.datasets.minari import ENVIRONMENT, LABELS, SCHEMA, first_to_text, load
from tmrl.datasets.spaces import environment_to_json
from tmrl.errors import DatasetError, SchemaError
from tmrl.rows import Rows
from tmrl.schema import Branch, Leaf, Nest, Schema, branch_of, example_from_space
from tmrl.schema_json import schema_to_json


def write_minari(dataset: Dataset, out: Path, drop: bool) -> list[str]:
    """Writes a dataset to a new folder; its data are in `out/data`, as `minari.MinariDataset` takes them.

    Returns:
        What was left out or converted, one sentence each.

    Raises:
        DatasetError: Minari is missing or cannot hold the dataset, or the folder is not empty.
    """
    storage_class = load("minari.dataset.minari_storage").MinariStorage
    load("h5py")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DatasetError(f"{out} must be a new or an empty folder; choose another one")
    fitted, remarks = fit(dataset, drop)
    out.parent.mkdir(parents=True, exist_ok=True)
    # Whole or not at all: it gets its name when it is done.
    # Absolute, because Minari does not find the size of a folder otherwise.
    temporary = out.absolute().parent / f".{out.name}-{secrets.token_hex(4)}"
    temporary.mkdir()
    try:
        about = dataset.about
        spaces = (
            space_of("obs", fitted.obs, about.observation_space),
            space_of("act", fitted.act, about.action_space),
        )
        storage = storage_class.new(
            temporary / "data", *spaces, _spec(about.environment), jpeg_encoding=False
        )
        storage.update_metadata(
            {
                "dataset_id": _id(out.name),
                "minari_version": load("minari").__version__,
                SCHEMA: json.dumps(schema_to_json(fitted)),
                ENVIRONMENT: json.dumps(environment_to_json(about)),
            }
        )
        labels: list[dict[str, str]] = []
        storage.update_episodes(_buffers(dataset, fitted, labels))
        storage.update_episode_metadata(labels)
        temporary.replace(out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return remarks


def fit(dataset: Dataset, drop: bool) -> tuple[Schema, list[str]]:
    """What of a dataset Minari can hold.

    Returns:
        The schema of that, and what is left out or converted.

    Raises:
        DatasetError: It cannot be held at all, or only if something is dropped and `drop` is false.
    """
    schema = dataset.schema
    for root, nest in (("obs", schema.obs), ("act", schema.act)):
        if not nest.leaves:
            raise DatasetError(f"Minari cannot hold {root}: it holds no array")
        for leaf in nest.leaves:
            if reason := _refused(leaf):
                raise DatasetError(
                    f"Minari cannot hold {leaf.name}: {reason}; change it in a wrapper, or use npz"
                )
        _check_keys(branch_of(root, nest))
    losses: list[str] = []
    if schema.with_crc:
        losses.append("the checksums of CRC mode")
    if n_empty := int((dataset.rows_per_episode == 1).sum()):
        losses.append(f"{n_empty} episodes without a transition")
    losses += [f"{leaf.name} as bfloat16 (it becomes float32)" for leaf in schema.leaves if leaf.is_bfloat16]
    info: dict[str, Nest] = {}
    for key, nest in schema.info.items():
        if any(_refused(leaf) for leaf in nest.leaves) or not nest.leaves:
            losses.append(f"the entry {key!r} of info")
        else:
            info[key] = _widened(nest)
    if losses and not drop:
        raise DatasetError(
            f"Minari cannot hold {'; '.join(losses)}; give drop=True (--drop) to do without, or use npz"
        )
    remarks = [f"Minari cannot hold {loss}" for loss in losses]
    return Schema(_widened(schema.obs), _widened(schema.act), info), remarks


def _refused(leaf: Leaf) -> str:
    if leaf.dtype.kind == "c":
        return f"it has no space of {leaf.dtype_name}"
    if 0 in leaf.shape:
        return f"it has no arrays of shape {leaf.shape}"
    parts = leaf.name.split("/")[1:]
    if any(part in {"", "."} for part in parts) or (not leaf.name.startswith("info/") and "~1" in leaf.name):
        return "a key must not be empty, a dot or contain a slash"
    return ""


def _check_keys(node: Branch | Leaf) -> None:
    if isinstance(node, Leaf):
        return
    if issubclass(node.kind, dict) and not all(isinstance(key, str) for key in node.keys):
        raise DatasetError(f"Minari cannot hold {node.name}: its keys must be text, got {node.keys}")
    if not node.children:
        raise DatasetError(f"Minari cannot hold {node.name}: it holds no array")
    for child in node.children:
        _check_keys(child)


def _widened(nest: Nest) -> Nest:
    """The nest with float32 in place of bfloat16."""
    leaves = (
        Leaf(leaf.name, np.dtype(np.float32), leaf.shape) if leaf.is_bfloat16 else leaf
        for leaf in nest.leaves
    )
    return Nest(nest.treespec, tuple(leaves))


def space_of(name: str, nest: Nest, space: Any) -> Any:
    """The space that describes a nest: the given one if it does, else one of unbounded boxes."""
    from gymnasium import spaces

    try:
        given = None if space is None else Nest.infer(name, example_from_space(name, space))
    except SchemaError:
        given = None
    if given == nest:
        return space

    def box(leaf: Leaf) -> Any:
        dtype: Any = leaf.dtype
        if leaf.dtype.kind == "f":
            return spaces.Box(-np.inf, np.inf, leaf.shape, dtype)
        low, high = (0, 1) if leaf.dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        return spaces.Box(
            np.full(leaf.shape, low, dtype), np.full(leaf.shape, high, dtype), leaf.shape, dtype
        )

    def mapping(parts: dict[str, Any]) -> Any:
        return spaces.Dict(list(parts.items()))  # a list keeps its order

    return _build(branch_of(name, nest), box, mapping, spaces.Tuple)


def _build(
    node: Branch | Leaf, leaf: Callable[[Leaf], Any], mapping: Callable[..., Any], sequence: Any
) -> Any:
    if isinstance(node, Leaf):
        return leaf(node)
    parts = [_build(child, leaf, mapping, sequence) for child in node.children]
    if issubclass(node.kind, dict):
        return mapping(dict(zip(node.keys, parts, strict=True)))
    return sequence(parts)


def _buffers(dataset: Dataset, fitted: Schema, labels: list[dict[str, str]]) -> Iterator[Any]:
    """The episodes as Minari takes them; what it keeps beside them is put into `labels`."""
    buffer_class = load("minari.data_collector.episode_buffer").EpisodeBuffer
    sources = {leaf.name: leaf for leaf in dataset.schema.leaves}
    obs, act = branch_of("obs", fitted.obs), branch_of("act", fitted.act)
    for episode in dataset.episodes():
        rows = episode.rows
        if len(rows) == 1:
            continue
        steps = rows[1:]
        labels.append({LABELS: json.dumps(_labels(dataset.schema, episode))})
        infos: dict[str, Any] = {}
        for nest in fitted.info.values():
            for leaf in nest.leaves:
                _put(infos, leaf.name.split("/")[1:], _column(rows, sources[leaf.name]))
        yield buffer_class(
            observations=_build(obs, lambda leaf, rows=rows: _column(rows, sources[leaf.name]), dict, tuple),
            actions=_build(act, lambda leaf, rows=steps: _column(rows, sources[leaf.name]), dict, tuple),
            rewards=steps["rew"],  # pyright: ignore[reportArgumentType]
            terminations=steps["terminated"],
            truncations=steps["truncated"],
            infos=infos or None,
        )


def _labels(schema: Schema, episode: Episode) -> dict[str, Any]:
    labels: dict[str, Any] = {"worker": episode.worker, "source": episode.source, "begins": episode.begins}
    if episode.changes:
        labels["changes"] = episode.changes
    first = first_to_text(schema, episode.rows)
    return labels if first is None else labels | {"first": first}


def _column(rows: Rows, source: Leaf) -> NDArray[Any]:
    column = np.ascontiguousarray(rows[source.name])
    return (column.astype(np.uint32) << 16).view(np.float32) if source.is_bfloat16 else column


def _put(tree: dict[str, Any], parts: Sequence[str], column: NDArray[Any]) -> None:
    for part in parts[:-1]:
        tree = tree.setdefault(part, {})
    tree[parts[-1]] = column


def _spec(environment: str | None) -> Any:
    """The specification of an environment that is registered here; a name is never imported.

    None if it cannot be written down, as that of a class or a function cannot.
    """
    from gymnasium import registry

    spec = None if environment is None else registry.get(environment)
    try:
        return None if spec is None or not spec.to_json() else spec
    except (TypeError, ValueError):
        return None


def _id(name: str) -> str:
    name = re.sub(r"[^-\w]", "-", name)
    return name if re.search(r"-v\d+$", name) else f"{name}-v0"
