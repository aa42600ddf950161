"""Files that hold secrets: their modes from the first instant, and their replacement in one step."""

import os
import stat
from pathlib import Path

import pytest

from tmrl.errors import CredentialError
from tmrl.networking.authority import Authority
from tmrl.networking.private_files import make_private_folder, write_private

posix = pytest.mark.skipif(os.name != "posix", reason="modes are a thing of POSIX")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def open_umask():
    """The most generous of umasks: nothing is private unless it is made so."""
    before = os.umask(0)
    yield
    os.umask(before)


@posix
@pytest.mark.usefixtures("open_umask")
def test_files_and_folder_are_private_from_the_moment_they_exist(tmp_path, monkeypatch):
    """Looks at each file when it is opened, before a byte is in it."""
    modes, open_ = {}, os.open

    def watched(path, flags, *arguments, **options):
        descriptor = open_(path, flags, *arguments, **options)
        if flags & os.O_CREAT:
            status = os.fstat(descriptor)
            modes[Path(path).name] = stat.S_IMODE(status.st_mode), status.st_size
        return descriptor

    monkeypatch.setattr(os, "open", watched)
    authority = Authority.create(tmp_path / "line", ["host"])
    authority.add_worker("robot-1")
    authority.revoke("trainer")
    drafts = {name: mode for name, mode in modes.items() if name.endswith(".draft")}
    # Two of the authority, two lists, two of the server, the trainer's; two for the worker; the list again.
    assert len(drafts) == 10
    assert set(drafts.values()) == {(0o600, 0)}
    assert {mode_of(path) for path in authority.folder.iterdir()} == {0o600}
    assert mode_of(authority.folder) == 0o700


def test_no_draft_stays_beside_what_was_made(tmp_path):
    Authority.create(tmp_path / "line", ["host"]).add_worker("robot-1")
    assert sorted(path.name for path in (tmp_path / "line").iterdir() if path.name != ".lock") == [
        *("ca.key", "ca.pem", "issued.json", "revoked.json", "robot-1.json"),
        *("server.key", "server.pem", "trainer.json"),
    ]


def test_a_write_that_fails_leaves_the_file_as_it_was_and_no_draft(tmp_path, monkeypatch):
    file = tmp_path / "file"
    write_private(file, b"before")

    def fails(descriptor):
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="the disk is full"):
        write_private(file, b"after")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert file.read_bytes() == b"before"


@posix
def test_a_folder_that_is_open_to_others_is_refused_and_left_as_it_is(tmp_path):
    folder = tmp_path / "a folder"
    folder.mkdir(mode=0o755)
    message = r"a folder must be open to its owner alone, got mode 0755; run `chmod 700 '.*a folder'`"
    with pytest.raises(CredentialError, match=message):
        Authority.create(folder, ["host"])
    assert list(folder.iterdir()) == []
    assert mode_of(folder) == 0o755
    folder.chmod(0o700)
    Authority.create(folder, ["host"])


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(CredentialError, match="file must be a folder, but is a file; choose another folder"):
        make_private_folder(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"
