"""One `.npz` file of columns: any NumPy writes it, and any tool reads it.

    obs, act, rew, terminated, truncated    one entry a sample, the reset of each episode among them
    obs/camera, obs/arms/0, ...             in place of `obs`, for nests: dicts, and tuples by their numbers
    info/success, ...                       entries of info
    episode                                 number of the episode
    reset                                   which samples are resets
    worker, source                          text, one a sample or one for all
    schema, environment                     JSON, written here so that everything comes back as it was

`rew`, `terminated`, and what tells episodes apart (`truncated`, `episode` or `reset`) must be there. Files in
the manner of D4RL, with `observations`, `actions`, `rewards`, `terminals` and one entry a transition, are
read too, see `tmrl.datasets.transitions`.
"""

import json
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmrl.datasets.columns import Columns, flags_of, n_samples, put_leaf, rewards_of, schema_of_columns
from tmrl.datasets.dataset import About, Dataset, EpisodeList, cut
from tmrl.datasets.files import sync, sync_folder
from tmrl.datasets.npz_file import NpzFile, NpzWriter
from tmrl.datasets.spaces import environment_from_json, environment_to_json
from tmrl.datasets.transitions import episodes_of_transitions, is_transitions
from tmrl.errors import DatasetError
from tmrl.rows import Rows
from tmrl.schema import Schema
from tmrl.schema_json import schema_from_json, schema_to_json

SOURCE = "dataset"
"""Label of samples for which the file has none."""
ROWS_PER_PART = 4096
"""Rows whose columns are copied out of the file of rows at once."""

_NESTS = ("obs", "act", "info")
_FLAGS = ("terminated", "truncated")
_BESIDE = ("episode", "reset", "worker", "source", "schema", "environment")


def is_npz(path: Path) -> bool:
    """Whether this is an `.npz` file."""
    return path.suffix == ".npz" and path.is_file()


def open_npz(path: Path) -> EpisodeList:
    """Reads a file, all of it into memory.

    Raises:
        DatasetError: It is damaged, or holds something else; the message says what is expected.
    """
    with closing(NpzFile(path)) as file:
        columns = {name: file.read(name) for name in file.names}
    try:
        if is_transitions(columns):
            return episodes_of_transitions(columns, worker=path.stem)
        return _Samples(columns).dataset(worker=path.stem)
    except DatasetError as error:
        raise DatasetError(f"{path} is no dataset: {error}") from error


class _Samples:
    """The columns of a file with one entry a sample."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self.remarks: list[str] = []

    def dataset(self, worker: str) -> EpisodeList:
        schema = self.schema()
        n = n_samples(self.columns, [leaf.name for leaf in schema.leaves if leaf.name != "truncated"])
        rows = np.zeros(n, schema.row_dtype)
        for leaf in schema.leaves:
            if leaf.name == "rew":
                rows["rew"] = rewards_of(self.columns["rew"], self.remarks)
            elif leaf.name in _FLAGS:
                rows[leaf.name] = self.flags(leaf.name, n)
            else:
                put_leaf(rows, leaf, self.columns[leaf.name])
        starts, begins = self.starts(rows)
        workers, sources = self.text("worker", worker, n), self.text("source", SOURCE, n)
        environment = environment_from_json(self.json("environment") or {})
        about = About("npz", **environment, assumptions=tuple(self.remarks))
        return EpisodeList(schema, about, cut(rows, starts, begins, workers, sources) if n else [])

    def schema(self) -> Schema:
        document = self.json("schema")
        if document is not None:
            return schema_from_json(document)
        known = (*_BESIDE, *_FLAGS, "rew")
        others = [name for name in self.columns if name not in known and name.split("/")[0] not in _NESTS]
        self.remarks += [f"{name} was left out" for name in others]
        schema, left_out = schema_of_columns(self.columns)
        self.remarks += left_out
        return schema

    def flags(self, name: str, n: int) -> NDArray[np.bool_]:
        if name in self.columns:
            return flags_of(name, self.columns[name])
        self.remarks.append(f"there is no {name}: an episode that does not terminate was left open")
        return np.zeros(n, np.bool_)

    def starts(self, rows: Rows) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which rows are the first of an episode, and which of those are resets."""
        n = len(rows)
        starts = np.arange(n) == 0
        starts[1:] |= rows["terminated"][:-1] | rows["truncated"][:-1]
        if "episode" in self.columns:
            n_samples(self.columns, ("rew", "episode"))
            changes = self.columns["episode"][1:] != self.columns["episode"][:-1]
            if len(np.unique(self.columns["episode"])) != min(n, 1) + np.count_nonzero(changes):
                raise DatasetError("the samples of one episode must stand together; sort them by episode")
            starts[1:] |= changes
        elif "truncated" not in self.columns and "reset" not in self.columns:
            raise DatasetError(
                "it must hold truncated, episode or reset: without them nobody knows where episodes were "
                "cut, and transitions would be made up"
            )
        if "reset" not in self.columns:
            self.remarks.append("there is no reset: the first sample of each episode was taken for its reset")
            return starts, starts
        n_samples(self.columns, ("rew", "reset"))
        resets = flags_of("reset", self.columns["reset"])
        return starts | resets, resets

    def text(self, name: str, default: str, n: int) -> NDArray[np.str_]:
        column = self.columns.get(name, np.array(default))
        if column.dtype.kind != "U" or column.shape not in {(), (n,)}:
            raise DatasetError(
                f"{name} must be text, one or one a sample, found {column.dtype} of {column.shape}"
            )
        return np.broadcast_to(column, n)

    def json(self, name: str) -> Any:
        if name not in self.columns:
            return None
        column = self.columns[name]
        try:
            return json.loads(str(column[()]) if column.shape == () else "")
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"{name} must be JSON, as this package writes it, but: {error}") from error


def write_npz(dataset: Dataset, out: Path, drop: bool) -> list[str]:  # noqa: ARG001 - nothing is dropped
    """Writes a dataset to a new `.npz` file, which can hold all of it.

    Its rows are read once, and wait in a temporary file beside `out` until their columns are written.

    Returns:
        No remarks.

    Raises:
        DatasetError: There is something called `out`, or its name does not end in `.npz`.
    """
    if out.exists() or out.suffix != ".npz":
        raise DatasetError(f"{out} must be the name of a new file that ends in .npz; choose another one")
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as folder:
        whole = Path(folder) / out.name
        with whole.open("xb") as stream:
            with closing(NpzWriter(stream)) as writer:
                _write(dataset, writer, Path(folder) / "rows")
            sync(stream)
        whole.replace(out)
    sync_folder(out.parent)
    return []


def _write(dataset: Dataset, writer: NpzWriter, waiting: Path) -> None:
    schema, counts, n = dataset.schema, dataset.rows_per_episode, dataset.n_rows
    resets = np.zeros(n, np.bool_)
    workers: list[str] = []
    parts: list[tuple[int, str]] = []
    with waiting.open("xb") as stream:
        row = 0
        for episode in dataset.episodes():
            resets[row] = episode.begins
            workers.append(episode.worker)
            parts += [(stop - start, source) for start, stop, source in episode.parts()]
            stream.write(np.ascontiguousarray(episode.rows).tobytes())
            row += len(episode.rows)
    rows = np.memmap(waiting, schema.row_dtype, "r") if n else np.empty(0, schema.row_dtype)
    for leaf in schema.leaves:
        with writer.array(leaf.name, (n, *leaf.shape), leaf.dtype) as stream:
            for start in range(0, n, ROWS_PER_PART):
                stream.write(rows[leaf.name][start : start + ROWS_PER_PART].tobytes())
    writer.write("episode", np.repeat(np.arange(len(dataset)), counts))
    writer.write("reset", resets)
    writer.write("worker", _text(workers, counts))
    writer.write(
        "source", _text([source for _, source in parts], np.array([length for length, _ in parts], np.int64))
    )
    writer.write("schema", np.array(json.dumps(schema_to_json(schema))))
    writer.write("environment", np.array(json.dumps(environment_to_json(dataset.about))))


def _text(labels: list[str], counts: NDArray[np.int64]) -> NDArray[np.str_]:
    """Labels as a column; one for all where they are the same."""
    return np.array(labels[0]) if len(set(labels)) == 1 else np.repeat(np.array(labels, np.str_), counts)
