"""`tmrl credentials`: the commands, what they print and their exit codes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tmrl.networking.credentials import ClientCredential, ServerCredentials, fingerprint_of

INIT = ("credentials", "init", "--host", "trainer.example.org")


@pytest.fixture
def folder(call, tmp_path):
    assert call(*INIT, tmp_path / "line")[0] == 0
    return tmp_path / "line"


def test_init_makes_an_authority_a_server_and_a_trainer(call, tmp_path):
    folder = tmp_path / "line"
    code, out, err = call(*INIT, "--host", "10.0.0.5", folder, "--port", "4433")
    assert (code, err) == (0, "")
    assert out == (
        f"credentials of a server at trainer.example.org, port 4433, are in {folder}; "
        f"the trainer's file is {folder / 'trainer.json'}; "
        f"keep {folder / 'ca.key'} where nobody else gets it\n"
    )
    trainer = ClientCredential.read(folder / "trainer.json")
    assert (trainer.role, trainer.host, trainer.port) == ("trainer", "trainer.example.org", 4433)
    assert ServerCredentials.read(folder).ca_pem == trainer.ca_pem


def test_worker_makes_one_file_that_is_all_a_robot_needs(call, folder, tmp_path):
    code, out, err = call("credentials", "worker", folder, "robot-1", "--days", "30")
    file = folder / "robot-1.json"
    assert (code, err) == (0, "")
    assert out == f"{file} is all that robot-1 needs; copy it there, and let nobody else read it\n"
    (tmp_path / "robot").mkdir()
    robot = ClientCredential.read(file.rename(tmp_path / "robot" / "credential.json"))
    assert (robot.name, robot.role, robot.host, robot.port) == (
        *("robot-1", "worker", "trainer.example.org", 55555),
    )


def test_revoke_shuts_one_worker_out(call, folder):
    for name in ("robot-1", "robot-2"):
        call("credentials", "worker", folder, name)
    pems = [ClientCredential.read(folder / f"robot-{i}.json").cert_pem for i in (1, 2)]
    code, out, err = call("credentials", "revoke", folder, "robot-1")
    assert (code, err) == (0, "")
    assert out == (
        "1 certificate of robot-1 revoked; "
        f"a server on another machine needs {folder / 'revoked.json'} anew\n"
    )
    server = ServerCredentials.read(folder)
    assert [server.is_revoked(pem) for pem in pems] == [True, False]


def test_list_prints_a_table_with_whole_fingerprints_at_any_width(call, folder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    call("credentials", "worker", folder, "robot-1")
    pem = ClientCredential.read(folder / "robot-1.json").cert_pem
    call("credentials", "revoke", folder, "robot-1")
    code, out, err = call("credentials", "list", folder)
    assert (code, err) == (0, "")
    head, *rows = [line.split() for line in out.splitlines()]
    assert head == ["name", "role", "issued", "expires", "revoked", "fingerprint"]
    assert [row[:2] for row in rows] == [["server", "server"], ["trainer", "trainer"], ["robot-1", "worker"]]
    assert rows[2][5] == fingerprint_of(pem)
    assert rows[1][4] == "-"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", rows[2][4])


def test_renew_replaces_the_file_of_a_worker_and_those_of_the_server(call, folder):
    call("credentials", "worker", folder, "robot-1")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert call("credentials", "worker", folder, "robot-1", "--renew")[0] == 0
    code, out, _ = call("credentials", "init", folder, "--renew")
    assert code == 0
    assert "credentials of a server at trainer.example.org, port 55555, are in" in out
    changed = {file.name for file in folder.iterdir() if file.read_bytes() != before[file.name]}
    assert changed == {"robot-1.json", "issued.json", "server.key", "server.pem", "trainer.json"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("init", "--host", "x", "DIR"),
            "holds credentials already (ca.key, ca.pem, server.key, issued.json)",
        ),
        (("init", "NEW"), "hosts must name the server at least once, got none; give its DNS name or IP"),
        (
            ("init", "NEW", "--host", "x:1"),
            "host must be a DNS name or an IP address, without scheme and port",
        ),
        (("init", "NEW", "--host", "x", "--port", "0"), "port must be 1 to 65535, got 0"),
        (("init", "NEW", "--host", "x", "--days", "9999"), "days must be at least 1 and at most 3652"),
        (("init", "NEW", "--renew"), "NEW must be a folder of credentials, but is none"),
        (
            ("worker", "DIR", "robot-1"),
            "the worker robot-1 exists in DIR; give another name, revoke it first",
        ),
        (("worker", "DIR", "a b"), "a worker's name must be 1 to 64 of A-Z a-z 0-9 . _ -, got 'a b'"),
        (("worker", "DIR", "robot-2", "--renew"), "--renew is for a worker that exists"),
        (("worker", "NEW", "robot-1"), "NEW must be a folder of credentials, but is none"),
        (("revoke", "DIR", "robot-2"), "'robot-2' must be a worker of DIR or trainer, and is not"),
        (("revoke", "NEW", "robot-1"), "NEW must be a folder of credentials, but is none"),
        (("list", "NEW"), "NEW must be a folder of credentials, but is none"),
    ],
)
def test_a_wrong_call_is_exit_code_2_with_the_remedy_and_makes_nothing(
    call, folder, monkeypatch, arguments, message
):
    call("credentials", "worker", folder, "robot-1")
    monkeypatch.chdir(folder.parent)
    folder.rename("DIR")
    before = {file.name: file.read_bytes() for file in Path("DIR").iterdir()}
    code, out, err = call("credentials", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("tmrl: ")
    assert message in err
    assert not Path("NEW").exists()
    assert {file.name: file.read_bytes() for file in Path("DIR").iterdir()} == before


@pytest.mark.parametrize("command", [("worker", "robot-1"), ("revoke", "robot-1"), ("list",)])
def test_damaged_credentials_are_exit_code_1(call, folder, command):
    (folder / "issued.json").write_text("{")
    name, *rest = command
    code, out, err = call("credentials", name, folder, *rest)
    assert (code, out) == (1, "")
    assert (
        "issued.json is damaged: it holds no JSON; give the folder that `tmrl credentials init` made" in err
    )


def test_a_missing_command_and_an_unknown_one_are_wrong_calls(call):
    assert call("credentials")[0] == 2
    assert call("credentials", "steal")[0] == 2


def test_help_names_the_commands(call):
    code, out, _ = call("credentials", "--help")
    assert code == 0
    assert [name for name in ("init", "worker", "revoke", "list") if f"• {name}" not in out] == []


@pytest.mark.skipif(os.name != "posix", reason="modes are a thing of POSIX")
def test_the_command_in_a_process_of_its_own_makes_private_files_and_prints_no_key(tmp_path):
    """The generous umask is the shell's; nothing that is printed is part of a private key."""
    printed = ""
    folder = tmp_path / "line"
    for arguments in (
        (*INIT, folder),
        ("credentials", "worker", folder, "robot-1"),
        ("credentials", "worker", folder, "robot-1"),
        ("credentials", "list", folder),
    ):
        command = [sys.executable, "-m", "tmrl", *map(str, arguments)]
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=120, check=False, preexec_fn=lambda: os.umask(0)
        )
        printed += result.stdout + result.stderr
    assert "exists in" in printed
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700
    keys = [json.loads((folder / name).read_text())["key"] for name in ("robot-1.json", "trainer.json")]
    keys += [(folder / name).read_text() for name in ("ca.key", "server.key")]
    lines = [line for key in keys for line in key.splitlines() if "PRIVATE" not in line]
    assert len(lines) >= 8
    assert [line for line in lines if line in printed] == []
