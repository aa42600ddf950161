"""Files that hold secrets: never open to others, not for an instant, and replaced in one step.

A file is made with mode 0600 and its folder with 0700, rather than changed to that later, because whoever
opens a file in between may read it for ever. For the same reason a file that is found open to others is
refused and not repaired: its secret may be known already, and the owner should hear of it. Windows has
other rights; there the files have those of their folder.

What is read may be a private key, so no error here has what was read in its message or among its causes.
"""

import json
import os
import secrets
import shlex
import stat
from pathlib import Path
from typing import Any, TypeVar

from tmrl.datasets.files import sync, sync_folder
from tmrl.errors import CredentialError

MAX_BYTES = 1 << 24
"""Of one file: room for the records of some ten thousand workers."""

_Entry = TypeVar("_Entry", str, int, list[Any])
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_BINARY: int = getattr(os, "O_BINARY", 0)


def make_private_folder(folder: Path) -> None:
    """Makes a folder for its owner alone, unless there is one already.

    Raises:
        CredentialError: It is there and open to others, or no folder.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        if not folder.is_dir():
            raise CredentialError(
                f"{folder} must be a folder, but is a file; choose another folder"
            ) from None
        _check_is_closed(folder, folder.stat().st_mode, "700")


def write_private(file: Path, content: bytes) -> None:
    """Writes a file for its owner alone, down to the disk; one that is there is replaced in one step."""
    draft = file.with_name(f".{secrets.token_hex(8)}.draft")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            sync(stream)
        draft.replace(file)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(file.parent)


def write_private_json(file: Path, content: dict[str, Any]) -> None:
    """Writes a JSON object as `write_private` does."""
    write_private(file, (json.dumps(content, indent=2) + "\n").encode())


def read_file(file: Path, remedy: str, is_private: bool = False) -> bytes:
    """Reads a small file.

    Args:
        file: The file.
        remedy: What to do when there is none.
        is_private: Whether it must be closed to all but its owner.

    Raises:
        CredentialError: It is missing, cannot be read, is too large, or is private and open to others.
    """
    try:
        with file.open("rb") as stream:
            if is_private:
                _check_is_closed(file, os.fstat(stream.fileno()).st_mode, "600")
            content = stream.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise CredentialError(f"{file} is missing; {remedy}") from error
    except OSError as error:
        raise CredentialError(f"{file} cannot be read: {error.strerror}; {remedy}") from error
    if len(content) > MAX_BYTES:
        raise CredentialError(f"{file} must be at most {MAX_BYTES:,} bytes, but is larger; {remedy}")
    return content


def read_json(file: Path, remedy: str, is_private: bool = False) -> dict[str, Any]:
    """Reads a JSON object from a file, as `read_file` does.

    Raises:
        CredentialError: As `read_file`, or it is no JSON object.
    """
    content = read_file(file, remedy, is_private)
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        # Not `from error`: it carries the whole text, and that may hold a key.
        raise CredentialError(f"{file} is damaged: it holds no JSON; {remedy}") from None
    if not isinstance(found, dict):
        raise CredentialError(f"{file} is damaged: it holds no JSON object; {remedy}")
    return found  # pyright: ignore[reportUnknownVariableType]


def entry(content: dict[str, Any], key: str, kind: type[_Entry], file: Path, remedy: str) -> _Entry:
    """An entry of what `read_json` read.

    Raises:
        CredentialError: It is missing or of another type.
    """
    value = content.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise CredentialError(
            f"{file} is damaged: its {key!r} must be of type {kind.__name__}, "
            f"got {type(value).__name__}; {remedy}"
        )
    return value


def _check_is_closed(path: Path, mode: int, wanted: str) -> None:
    if os.name == "posix" and mode & _OTHERS:
        raise CredentialError(
            f"{path} must be open to its owner alone, got mode {stat.S_IMODE(mode):04o}; "
            f"run `chmod {wanted} {shlex.quote(str(path))}`"
        )
