"""The folder of one run, `runs/<name>/`, and what lies where in it."""

import json
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

RUNS = Path("runs")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of one run; a folder belongs to the run that made it, and to those that go on with it."""

    path: Path
    """The folder."""

    @classmethod
    def create(cls, name: str | None, env: str, parent: Path = RUNS) -> "RunFolder":
        """Makes the folder of a new run.

        Args:
            name: Name of the run; None takes the environment's id, date and time, made unique.
            env: Id of the environment.
            parent: Where the folders of runs are.

        Raises:
            FileExistsError: A run of this name exists.
            ValueError: The name is no name of a folder.
        """
        if name is not None:
            check_name_is_free(name, parent)
            (parent / name).mkdir(parents=True)
            return cls(parent / name)
        stem = f"{env.replace('/', '-')}-{datetime.now().astimezone():%Y%m%d-%H%M%S}"
        return cls(_make_unique(parent, stem))

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Opens the folder of a run that left a policy.

        Raises:
            FileNotFoundError: It is no such folder.
        """
        folder = cls(path)
        missing = [file.name for file in (folder.config, folder.policy) if not file.is_file()]
        if missing:
            raise FileNotFoundError(
                f"{path} must be the folder of a run, but has no {' and no '.join(missing)}; "
                "`tmrl train` makes such folders in runs/"
            )
        return folder

    @classmethod
    def resume(cls, path: Path) -> "RunFolder":
        """Opens the folder of a run that left a checkpoint.

        Raises:
            FileNotFoundError: It is no such folder.
        """
        folder = cls(path)
        if not folder.config.is_file():
            raise FileNotFoundError(
                f"--resume must be the folder of a run, but {path} has no {folder.config.name}; "
                "`tmrl train` makes such folders in runs/"
            )
        if not folder.checkpoint.exists():
            raise FileNotFoundError(
                f"{path} has no checkpoint to go on from, because the run ended before its first; "
                "begin a new run, without --resume"
            )
        return folder

    def claim(self) -> AbstractContextManager[Any]:
        """Claims the folder for this process, until the context that is returned is left or the process ends.

        Raises:
            ValueError: Another process trains this run.
        """
        try:
            return FileLock(self.path / ".lock").acquire(timeout=0)
        except Timeout as error:
            raise ValueError(
                f"{self.path} is in use by another process that trains it; wait for its end, or stop it"
            ) from error

    @property
    def checkpoint(self) -> Path:
        """The training as it was when it was last saved."""
        return self.path / "checkpoint"

    @property
    def config(self) -> Path:
        """The settings."""
        return self.path / "config.json"

    @property
    def policy(self) -> Path:
        """The weights of the policy."""
        return self.path / "policy.safetensors"

    @property
    def curve(self) -> Path:
        """The picture of the returns over the steps."""
        return self.path / "learning_curve.png"

    @property
    def summary(self) -> Path:
        """The outcome."""
        return self.path / "summary.json"


def check_name_is_free(name: str, parent: Path = RUNS) -> None:
    """Checks that a run may be called `name`.

    Raises:
        FileExistsError: A run of this name exists.
        ValueError: The name is no name of a folder.
    """
    if Path(name).name != name or name in {"", ".."}:
        raise ValueError(f"--name must be the name of a folder to make in {parent}/, got {name!r}")
    if (parent / name).exists():
        raise FileExistsError(
            f"the run {parent / name} exists and is left as it is; give another --name, or remove the folder"
        )


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file for people to read; one that is there is replaced in one step."""
    draft = path.with_name(f"{path.name}.draft")
    draft.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    draft.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        ValueError: The file holds none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} must hold JSON, but cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(content).__name__}")  # noqa: TRY004
    return content  # pyright: ignore[reportUnknownVariableType]


def _make_unique(parent: Path, stem: str) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    path, copy = parent / stem, 1
    while True:
        try:
            path.mkdir()
        except FileExistsError:
            copy += 1
            path = parent / f"{stem}-{copy}"
        else:
            return path
