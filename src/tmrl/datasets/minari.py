"""Minari datasets: read from a folder or by their id, and written with Minari's own storage.

An episode of L steps is L + 1 observations and L actions there, which is what we have. The rest of what we
know travels beside it: the schema in the metadata of the dataset, so that our own reader gives back lists,
namedtuples and the order of keys; who collected an episode, and its labels, in the metadata of the episode.

Minari is an extra, `tmrl-memory[datasets]`, and is loaded when it is first needed. A file is not trusted: an
environment is never made from it, and what would lead to other files is refused.
"""

import json
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmrl.datasets.columns import Columns, flags_of, put_leaf, rewards_of, schema_of_columns
from tmrl.datasets.dataset import About, Dataset, Episode
from tmrl.errors import DatasetError
from tmrl.nest import flatten, leaf_names
from tmrl.schema import Schema
from tmrl.schema_json import schema_from_json

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
            f"Minari datasets need a package that is missing ({error}); "
            'pip install "tmrl-memory[datasets]"'
        ) from error


def is_minari(path: Path) -> bool:
    """Whether this is the folder of a Minari dataset, or the one named `data` in it."""
    return _data_folder(path) is not None


def _data_folder(path: Path) -> Path | None:
    return next((folder for folder in (path, path / "data") if (folder / METADATA).is_file()), None)


def find_minari(name: str) -> Path | None:
    """The folder of the dataset with this id in Minari's own root, if it is there."""
    folder = load("minari.storage.datasets_root_dir").get_dataset_path(name)
    return folder if is_minari(folder) else None
