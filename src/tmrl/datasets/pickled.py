"""The documented `data.pkl` as a dataset: the columns act, obs, rew, terminated, truncated, info."""

from pathlib import Path
from typing import Any

from tmrl.chunk import chunks_of
from tmrl.datasets.dataset import About, EpisodeList
from tmrl.datasets.pickle_file import read_columns
from tmrl.datasets.samples import episodes_of, schema_of
from tmrl.errors import DatasetError, TmrlError
from tmrl.packing import Packer, is_reset
from tmrl.schema import Nest, Schema, info_name

FILE = "data.pkl"
SOURCE = "dataset"
"""Label of rows for which the file has none."""


def is_pickled(path: Path) -> bool:
    """Whether this is a `data.pkl`, or a folder with one."""
    return (path / FILE).is_file() or (path.name == FILE and path.is_file())


def open_pickled(path: Path) -> EpisodeList:
    """Reads the columns, all of them into memory. Nothing that the file holds is run.

    Raises:
        DatasetError: It holds something else.
    """
    file = path / FILE if path.is_dir() else path
    columns = read_columns(file)
    try:
        samples = _samples(columns)
        del columns
        if not samples:
            return EpisodeList(Schema(Nest.infer("obs", ()), Nest.infer("act", ())), About("pickle"), [])
        schema, left_out = _schema(samples)
        chunks = chunks_of(samples, Packer(schema, finite=()), SOURCE)
    except (TmrlError, ValueError, TypeError) as error:
        raise DatasetError(
            f"{file} must hold the columns act, obs, rew, terminated, truncated, info, but {error}; a memory "
            "of your own (a subclass of tmrl.memory.TorchMemory) reads other layouts"
        ) from error
    assumptions = [
        "the samples were taken for consecutive steps of one worker, because the file does not say",
        *(f"the entry {key!r} of info was left out: {reason}" for key, reason in left_out.items()),
    ]
    if not chunks[0].starts[0]:
        assumptions.append("the first sample was not taken for a reset, because it has an action")
    return EpisodeList(schema, About("pickle", assumptions=tuple(assumptions)), episodes_of(chunks))


def _samples(columns: list[Any]) -> list[tuple[Any, ...]]:
    if len(columns) not in {6, 7}:
        raise ValueError(f"there are {len(columns)} columns")
    samples: list[tuple[Any, ...]] = list(zip(*columns[:6], strict=True))
    if samples and all(sample[0] is None for sample in samples):
        raise ValueError("no sample has an action")
    for sample in samples:
        if not isinstance(sample[5], dict):
            raise TypeError(f"an info is a {type(sample[5]).__name__}")
    return samples


def _schema(samples: list[tuple[Any, ...]]) -> tuple[Schema, dict[str, str]]:
    """The layout of the samples, and which entries of `info` no row can hold and why."""
    steps = [sample[5] for i, sample in enumerate(samples) if not is_reset(samples, i)]
    named = {key: None for sample in samples for key in sample[5] if key not in {"crc", "source"}}
    kept: list[str] = []
    left_out: dict[str, str] = {}
    for key in named:
        if not isinstance(key, str):
            left_out[str(key)] = "its name is no text"
        elif not all(key in info for info in steps):
            left_out[key] = "not every step has it"
        else:
            try:
                nest = Nest.infer(
                    info_name(key), next(sample[5][key] for sample in samples if key in sample[5])
                )
                only = Schema(Nest.infer("obs", ()), Nest.infer("act", ()), {key: nest})
                Packer(only, ()).pack(
                    [(None, (), 0.0, False, False, sample[5]) for sample in samples if key in sample[5]]
                )
            except TmrlError as error:
                left_out[key] = str(error).split(";", maxsplit=1)[0]
            else:
                kept.append(key)
    return schema_of(samples, kept), left_out
