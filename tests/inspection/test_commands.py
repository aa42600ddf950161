"""`tmrl inspect` and `tmrl verify`, through the command line."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from makers import buffer_of, plain_episode
from tmrl import cli
from tmrl.memory import ReplayMemory

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    memory = ReplayMemory(memory_size=500, batch_size=4)
    memory.append(buffer_of(plain_episode(40)))
    memory.append(buffer_of(plain_episode(20)))
    memory.save(tmp_path / "saved")
    return tmp_path / "saved"


def test_inspect_prints_tables_and_writes_a_page(call: Call, folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    code, out, err = call("inspect", folder, "--html", page)
    assert (code, err) == (0, "")
    assert out.startswith("saved: snapshot\n")
    assert "  transitions  60, room for 500" in out
    assert out.endswith(f"the page is {page}, {page.stat().st_size / 1000:.1f} kB\n")
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_verify_says_what_is_sound(call: Call, folder: Path) -> None:
    code, out, err = call("verify", folder)
    assert (code, err) == (0, "")
    assert out.startswith("sound: snapshot, 62 rows in 2 episodes, 992 bytes read in 0.")


def test_verify_names_the_first_bad_row(call: Call, folder: Path) -> None:
    file = sorted(folder.glob("*.rows.npy"))[2]
    octets = bytearray(file.read_bytes())
    octets[-1] ^= 1
    file.write_bytes(octets)
    code, out, err = call("verify", folder)
    assert (code, out) == (1, "")
    assert err == f"tmrl: {file} is damaged: row 47 is bad\n"


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_data_that_cannot_be_read_are_exit_code_1(call: Call, folder: Path, command: str) -> None:
    (folder / "manifest.json").write_text("{")
    code, out, err = call(command, folder)
    assert (code, out) == (1, "")
    assert "manifest.json is damaged" in err


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_a_path_that_does_not_exist_is_a_wrong_call(call: Call, command: str) -> None:
    code, _, err = call(command, "nowhere")
    assert code == 2
    assert err.startswith("tmrl: nowhere must be")


def test_a_page_in_a_folder_that_does_not_exist_is_a_wrong_call(call: Call, folder: Path) -> None:
    code, out, err = call("inspect", folder, "--html", folder / "no" / "page.html")
    assert (code, out) == (2, "")
    assert "--html must be a file in a folder that exists, got" in err


WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, *_):
        if name.split(".")[0] in {"torch", "matplotlib", "gymnasium", "tensorboard"}:
            raise ModuleNotFoundError(f"no {name} here")

sys.meta_path.insert(0, Absent())
from tmrl.cli import main
main(sys.argv[1:])
"""


def test_both_work_without_torch_and_matplotlib(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    paths = os.pathsep.join(map(str, (Path(__file__).parents[1], Path(cli.__file__).parents[1])))
    for arguments in (["verify", folder], ["inspect", folder, "--html", page]):
        ended = subprocess.run(
            [sys.executable, "-c", WITHOUT, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=os.environ | {"PYTHONPATH": paths, "PYTHONIOENCODING": "utf-8"},
        )
        assert ended.returncode == 0, ended.stderr
    assert page.stat().st_size > 5000
