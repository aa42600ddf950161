"""Checkpoint: a whole training in one folder, from which it goes on as if it had never stopped.

    manifest.json                what counts, and where the loop stands; the memory's part under `memory`
    <token>.state.safetensors    agent, optimisers, random states, notes, and a user's own memory
    <first id>-<token>.*.npy     the rows of a ReplayMemory, as `tmrl.memory.snapshot` says

Each save writes its state to a new file and then replaces the manifest, in one step for agent, counters and
memory. A crash at any moment leaves the checkpoint that was there before.
"""

import os
import random
import secrets
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tmrl.datasets.files import MANIFEST, read_manifest, remove_others, replace_manifest, require_ours
from tmrl.errors import DatasetError
from tmrl.memory.replay import ReplayMemory
from tmrl.memory.rings import kept_in
from tmrl.training.offline import TrainingOffline
from tmrl.training.source import Line
from tmrl.training.state_file import SUFFIX, check_state, read_state, write_state

KIND = "checkpoint"
COUNTERS = ("epoch", "round", "step", "total_updates", "total_samples")
MEMORY_FIELDS = (
    *("data", "crc_checked"),
    *("stat_train_return", "stat_test_return", "stat_train_steps", "stat_test_steps"),
)
"""What is saved of a memory of the user's own that has no `state_dict()`."""


class Checkpoint:
    """A folder that holds one training.

    No pickle is written, and nothing that is read is executed. Save and load between two training steps, in
    the thread that trains.

    Args:
        folder: Made when something is saved; it may be moved and copied.

    Attributes:
        folder: As given.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @property
    def exists(self) -> bool:
        """Whether the folder holds something to load."""
        return (self.folder / MANIFEST).is_file()

    def counters(self) -> dict[str, int]:
        """Where the saved loop stands: `epoch, round, step, total_updates, total_samples`.

        Raises:
            DatasetError: The folder holds no checkpoint, or a damaged one.
        """
        return self._document()["counters"]

    def kept(self) -> dict[str, int]:
        """The sources that a memory in RAM kept, and the transitions for which each has room, see `Mixture`.

        Raises:
            DatasetError: The folder holds no checkpoint, or a damaged one.
        """
        return kept_in(self._document().get("memory") or {})

    def check(self, run: TrainingOffline) -> None:
        """Checks, without writing anything, that a training can be saved.

        Raises:
            TypeError: Its agent or memory holds what cannot be saved; the message names it and the remedy.
        """
        check_state(_state_of(run, {}))

    def save(self, run: TrainingOffline, notes: Any = None, line: Line | None = None) -> None:
        """Saves a training in place of what the folder holds.

        Of a `ReplayMemory`, only rows that are new are written; of one that lives in a file, nothing but
        where that is. Of any other memory, `data` and the statistics are written, or what its `state_dict()`
        returns, if it has one.

        Args:
            run: The training.
            notes: Anything of the caller's to be saved with it: containers, numbers, text, arrays, tensors.
            line: Where samples come from, if that keeps them until they are saved: its state joins the notes,
                then a dict or None, under `line`, and is committed once all is saved.

        Raises:
            TypeError: As in `check`.
            DatasetError: The folder holds something else.
        """
        if line is not None:
            state = line.state()
            self.save(run, (notes or {}) | {"line": state})
            line.commit(state)
            return
        if self.exists:
            self._document()
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            require_ours(self.folder)
        name = secrets.token_hex(8)
        checksum = write_state(self.folder / f"{name}{SUFFIX}", _state_of(run, notes))
        document: dict[str, Any] = {
            "kind": KIND,
            "counters": {counter: int(getattr(run, counter)) for counter in COUNTERS},
            "files": [name],
            "state_crc": checksum,
        }
        storage = _storage_of(run.memory)
        if storage is not None:
            run.memory.flush()
            document["memory"] = {"kind": "storage", "path": os.path.relpath(storage, self.folder)}
        elif isinstance(run.memory, ReplayMemory):
            run.memory.save(self.folder, within=document)
            return
        replace_manifest(self.folder, document)
        remove_others(self.folder, document["files"])

    def load(self, run: TrainingOffline) -> Any:
        """Brings a new training to where the saved one stood, and returns the notes that were saved with it.

        The settings that `run` was made with stay: sizes, intervals, preprocessors, device. What the agent
        keeps in its attributes becomes what it was, hyperparameters of its optimisers included, and so do
        the random states of Python, NumPy and torch.

        Args:
            run: Made by the same constructors.

        Raises:
            DatasetError: The folder holds no checkpoint, or a damaged one, or that of another training.
        """
        document = self._document()
        device = "cpu" if run.device is None else run.device
        (name,) = document["files"]
        state = read_state(self.folder, f"{name}{SUFFIX}", document["state_crc"], device)
        self._load_memory(run.memory, document.get("memory"), state["memory"])
        try:
            run.agent.load_state_dict(state["agent"])
        except (RuntimeError, ValueError, TypeError, KeyError) as error:
            raise DatasetError(
                f"{self.folder} must hold the state of a {type(run.agent).__name__} made like this one, but: "
                f"{error}; resume with the agent that was saved"
            ) from error
        for counter in COUNTERS:
            setattr(run, counter, document["counters"][counter])
        _set_random_states(state["random"])
        return state["notes"]

    def _document(self) -> dict[str, Any]:
        document, _ = read_manifest(self.folder)
        if document.get("kind") != KIND:
            raise DatasetError(
                f"{self.folder} must be the folder of a checkpoint, but holds a {document.get('kind')}; "
                "choose another folder"
            )
        return document

    def _load_memory(self, memory: Any, part: dict[str, Any] | None, state: Any) -> None:
        saved = "own" if part is None else part["kind"]
        storage = _storage_of(memory)
        found = (
            "storage" if storage is not None else "snapshot" if isinstance(memory, ReplayMemory) else "own"
        )
        if saved != found:
            raise DatasetError(
                f"{self.folder} must be loaded with the memory that was saved, {_MEMORIES[saved]}, got "
                f"{_MEMORIES[found]}; make the training as it was"
            )
        if storage is not None and part is not None:
            expected = self.folder / part["path"]
            if Path(storage).resolve() != expected.resolve():
                raise DatasetError(
                    f"{self.folder} must be loaded with the memory stored in {expected}, got one stored in "
                    f"{storage}; give that path, or move the file back"
                )
        elif isinstance(memory, ReplayMemory):
            memory.restore(self.folder)
        elif hasattr(memory, "load_state_dict"):
            memory.load_state_dict(state)
        else:
            for name, value in state.items():
                setattr(memory, name, value)


_MEMORIES = {
    "own": "one of your own",
    "snapshot": "a ReplayMemory in RAM",
    "storage": "a ReplayMemory in a file",
}


def _storage_of(memory: Any) -> str | Path | None:
    """Where a memory lives, if that is on disk."""
    return getattr(memory, "storage_path", None)


def _state_of(run: TrainingOffline, notes: Any) -> dict[str, Any]:
    return {
        "agent": run.agent.state_dict(),
        "memory": _memory_state(run.memory),
        "notes": notes,
        "random": _random_states(),
    }


def _memory_state(memory: Any) -> Any:
    if isinstance(memory, ReplayMemory) or _storage_of(memory) is not None:
        return None
    if hasattr(memory, "state_dict"):
        return memory.state_dict()
    return {name: getattr(memory, name) for name in MEMORY_FIELDS}


def _random_states() -> dict[str, Any]:
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002 - users' code may draw from it
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_random_states(states: dict[str, Any]) -> None:
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    for i, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state, i)
