"""Minari datasets: read from a folder or by their id, and written with Minari's own storage.

An episode of L steps is L + 1 observations and L actions there, which is what we have. The rest of what we
know travels beside it: the schema in the metadata of the dataset, so that our own reader gives back lists,
namedtuples and the order of keys; who collected an episode, and its labels, in the metadata of the episode.

Minari is an extra, `tmrl-memory[datasets]`, and is loaded when it is first needed. A file is not trusted: an
environment is never made from it, and what would lead to other files is refused.
"""

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmrl.datasets.columns import flags_of, is_under, nest_of_columns, put_leaf, rewards_of
from tmrl.datasets.dataset import About, Dataset, Episode
from tmrl.datasets.files import MAX_MANIFEST_BYTES
from tmrl.datasets.spaces import environment_from_json
from tmrl.errors import DatasetError
from tmrl.nest import flatten, leaf_names
from tmrl.rows import Rows
from tmrl.schema import Branch, Leaf, Nest, Schema, branch_of, example_from_space, info_name
from tmrl.schema_json import MAX_DEPTH, schema_from_json

METADATA = "metadata.json"
MAIN = "main_data.hdf5"
SCHEMA = "tmrl_schema"
ENVIRONMENT = "tmrl_environment"
LABELS = "tmrl"
"""Keys of what we add to the metadata of a dataset and of an episode."""
SOURCE = "dataset"
MAX_RATIO = 100
"""Most bytes of an episode for each byte of the file, beyond `FREE_BYTES`."""
FREE_BYTES = 1 << 28


def load(name: str) -> ModuleType:
    """A module of Minari or of what it needs.

    Raises:
        DatasetError: It is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise DatasetError(
            f'Minari datasets need a package that is missing ({error}); pip install "tmrl-memory[datasets]"'
        ) from error


def is_minari(path: Path) -> bool:
    """Whether this is the folder of a Minari dataset, or the one named `data` in it."""
    return _data_folder(path) is not None


def _data_folder(path: Path) -> Path | None:
    return next((folder for folder in (path, path / "data") if (folder / METADATA).is_file()), None)


def is_id(name: str) -> bool:
    """Whether this may be the id of a Minari dataset."""
    return re.fullmatch(r"\w[-\w/]*-v\d+", name) is not None


def find_minari(name: str) -> Path | None:
    """The folder of the dataset with this id in Minari's own root, if it is there.

    Raises:
        DatasetError: Minari is not installed.
    """
    folder = load("minari.storage.datasets_root_dir").get_dataset_path(name)
    return folder if is_minari(folder) else None


def open_minari(path: Path) -> "MinariReader":
    """Opens a dataset in a folder.

    Raises:
        DatasetError: It is damaged, or holds something that is not read.
    """
    folder = _data_folder(path)
    if folder is None:
        raise DatasetError(f"{path} must be the folder of a Minari dataset, but holds no {METADATA}")
    with _told(folder):
        return MinariReader(folder)


@contextmanager
def _told(folder: Path) -> Generator[None]:
    try:
        yield
    except DatasetError as error:
        raise DatasetError(f"the Minari dataset in {folder} cannot be read: {error}") from error
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, AssertionError, RecursionError) as error:
        raise DatasetError(f"the Minari dataset in {folder} is damaged: {error!r}") from error


class MinariReader(Dataset):
    """Episodes of a Minari dataset, each read when it is asked for.

    Args:
        folder: With `metadata.json` and `main_data.hdf5`.

    Raises:
        DatasetError: It holds something that is not read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._metadata = _read_metadata(folder)
        self._h5py = load("h5py")
        self._storage = load("minari.dataset.minari_storage").MinariStorage.read(folder)
        n = self._metadata["total_episodes"]
        self._notes = list(self._storage.get_episode_metadata(range(n)))
        about = self._metadata.get(ENVIRONMENT)
        if about is not None:
            environment = environment_from_json(json.loads(about))
        else:
            spec = self._metadata.get("env_spec")
            environment = {
                "environment": None if spec is None else str(json.loads(spec)["id"]),
                "observation_space": self._storage.observation_space,
                "action_space": self._storage.action_space,
            }
        remarks: list[str] = []
        schema = self._schema(remarks)
        super().__init__(schema, About("minari", **environment, assumptions=tuple(remarks)))

    @cached_property
    def rows_per_episode(self) -> NDArray[np.int64]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """`(n_episodes,)` rows of each episode."""
        return np.array([int(note["total_steps"]) + 1 for note in self._notes], np.int64)

    def episode(self, index: int) -> Episode:
        """Reads one episode into memory; the oldest is 0.

        Raises:
            DatasetError: The file is damaged, or the episode is not like the first one.
        """
        index = range(len(self))[index]
        with _told(self._folder):
            return self._episode(index)

    def _episode(self, index: int) -> Episode:
        found = self._read(index)
        n_rows = int(self.rows_per_episode[index])
        rows = np.zeros(n_rows, self.schema.row_dtype)
        labels = json.loads(self._notes[index].get(LABELS, "{}"))
        if "first" in labels:
            first_from_text(self.schema, rows, labels["first"])
        steps = rows[1:]
        for root, nest, part in (("obs", found["observations"], rows), ("act", found["actions"], steps)):
            for leaf, column in _leaves(branch_of(root, getattr(self.schema, root)), nest):
                put_leaf(part, leaf, column)
        columns = self._info_columns(found)
        for nest in self.schema.info.values():
            for leaf in nest.leaves:
                column = columns[leaf.name]
                put_leaf(rows if len(column) == n_rows else steps, leaf, column)
        steps["rew"] = rewards_of(found["rewards"], [])
        for name, column in (("terminated", "terminations"), ("truncated", "truncations")):
            steps[name] = flags_of(column, found[column])
        if (rows["terminated"][:-1] | rows["truncated"][:-1]).any():
            raise DatasetError(f"episode {index} goes on after its end")
        worker, source = (
            labels.get("worker", str(self._metadata.get("dataset_id"))),
            labels.get("source", SOURCE),
        )
        changes = tuple((int(row), str(label)) for row, label in labels.get("changes", ()))
        rows.flags.writeable = False
        return Episode(rows, str(worker), str(source), bool(labels.get("begins", True)), changes)

    def _read(self, index: int) -> dict[str, Any]:
        """What Minari's own reader gives, of an episode that leads to no other file and fits in memory."""
        file = self._folder / MAIN
        with self._h5py.File(file, "r") as opened:
            n_bytes = _size(self._h5py, opened, f"episode_{index}")
        if n_bytes > max(FREE_BYTES, MAX_RATIO * file.stat().st_size):
            raise DatasetError(
                f"episode {index} claims {n_bytes:,} bytes, {MAX_RATIO} times as many as the file"
            )
        (found,) = self._storage.get_episodes([index])
        return found

    def _info_columns(self, found: dict[str, Any]) -> dict[str, NDArray[Any]]:
        """The arrays of info by the names of their leaves."""
        leaves, treespec = flatten(found["infos"] or {})
        names = leaf_names("info", treespec)
        if SCHEMA in self._metadata:
            # We wrote them under the parts of these names, which were escaped already.
            names = [name.replace("~0", "~") for name in names]
        return dict(zip(names, leaves, strict=True))

    def _schema(self, remarks: list[str]) -> Schema:
        """As it was written beside the data, or as the spaces and the first episode show it."""
        if SCHEMA in self._metadata:
            return schema_from_json(json.loads(self._metadata[SCHEMA]))
        obs = example_from_space("obs", self._storage.observation_space)
        act = example_from_space("act", self._storage.action_space)
        if not self._notes:
            return Schema(Nest.infer("obs", obs), Nest.infer("act", act))
        found = self._read(0)
        rewards_of(found["rewards"], remarks)
        info = self._info(self._info_columns(found), len(found["rewards"]), remarks)
        return Schema(
            _as_shown("obs", obs, found["observations"]), _as_shown("act", act, found["actions"]), info
        )

    def _info(self, columns: dict[str, NDArray[Any]], n_steps: int, remarks: list[str]) -> dict[str, Nest]:
        with self._h5py.File(self._folder / MAIN, "r") as opened:
            groups = [opened[f"episode_{i}"] for i in range(len(self._notes))]
            keys = [set(group["infos"]) if "infos" in group else set[str]() for group in groups]
        info: dict[str, Nest] = {}
        for key in sorted(set[str]().union(*keys)):
            name = info_name(key)
            parts = {leaf: column for leaf, column in columns.items() if is_under(leaf, name)}
            lengths = {len(column) if np.ndim(column) else 0 for column in parts.values()}
            if not all(key in found for found in keys):
                remarks.append(f"the entry {key!r} of info was left out: not every episode has it")
            elif not lengths <= {n_steps, n_steps + 1}:
                remarks.append(f"the entry {key!r} of info was left out: it has not one value a step")
            else:
                try:
                    info[key] = nest_of_columns(name, parts)
                except DatasetError as error:
                    remarks.append(f"the entry {key!r} of info was left out: {error}")
        return info


def _as_shown(name: str, example: Any, found: Any) -> Nest:
    """The nest of a space with the shapes and dtypes that the data have."""
    nest = Nest.infer(name, example)
    columns = [column for _, column in _leaves(branch_of(name, nest), found)]
    return Nest.infer(name, nest.pack_nest(np.empty(column.shape[1:], column.dtype) for column in columns))


def _leaves(node: Branch | Leaf, nest: Any) -> Iterator[tuple[Leaf, NDArray[Any]]]:
    """The leaves of a nest and their arrays; Minari has tuples where we may have lists and namedtuples."""
    if isinstance(node, Leaf):
        yield node, np.asarray(nest)
        return
    for key, child in zip(node.keys, node.children, strict=True):
        yield from _leaves(child, nest[key])


def _read_metadata(folder: Path) -> dict[str, Any]:
    file = folder / METADATA
    if file.stat().st_size > MAX_MANIFEST_BYTES:
        raise DatasetError(f"{METADATA} is larger than any; it is damaged")
    metadata = json.loads(file.read_text(encoding="utf-8"))
    if metadata.get("data_format", "hdf5") != "hdf5" or not (folder / MAIN).is_file():
        raise DatasetError(
            f"it must be in the format hdf5, found {metadata.get('data_format')!r}; write it anew with Minari"
        )
    if not all(isinstance(metadata.get(name), str) for name in ("observation_space", "action_space")):
        raise DatasetError(
            "it must hold its spaces; they would have to be taken from its environment, which would run what "
            "the file names"
        )
    if not isinstance(metadata.get("total_episodes"), int):
        raise DatasetError("it must hold its number of episodes")
    return metadata


def _size(h5py: ModuleType, group: Any, name: str, depth: int = 0) -> int:
    """Bytes of all arrays under a name, none of which may lie in another file."""
    found = group[name] if isinstance(group.get(name, getlink=True), h5py.HardLink) else None
    is_array = isinstance(found, h5py.Dataset)
    if found is None or depth > MAX_DEPTH or (is_array and (found.external or found.is_virtual)):
        raise DatasetError(
            f"{name!r} must be in the file itself, but leads elsewhere; nothing was read from there"
        )
    if is_array:
        return int(found.nbytes)
    return sum(_size(h5py, found, part, depth + 1) for part in found)


# What Minari has no place for: the part of a first row that belongs to no transition.


def first_leaves(schema: Schema) -> Sequence[Leaf]:
    """Leaves of the first row of an episode that Minari does not hold."""
    names = {"rew", "terminated", "truncated", *(leaf.name for leaf in schema.act.leaves)}
    return [leaf for leaf in schema.leaves if leaf.name in names]


def first_to_text(schema: Schema, rows: Rows) -> str | None:
    """These leaves as text; None if they are zero, as they are after most resets."""
    octets = b"".join(rows[leaf.name][:1].tobytes() for leaf in first_leaves(schema))
    return b64encode(octets).decode() if any(octets) else None


def first_from_text(schema: Schema, rows: Rows, text: str) -> None:
    """Writes them into the first row."""
    octets = b64decode(text)
    for leaf in first_leaves(schema):
        rows[leaf.name][:1] = np.frombuffer(octets[: leaf.n_bytes], leaf.dtype).reshape(1, *leaf.shape)
        octets = octets[leaf.n_bytes :]
