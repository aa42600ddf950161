"""Making, renewing, revoking and listing credentials."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from filelock import FileLock

from tmrl.errors import CredentialError
from tmrl.networking.authority import Authority
from tmrl.networking.credentials import ClientCredential, ServerCredentials, fingerprint_of
from tmrl.networking.issued import Issued, table_of

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "line", ["trainer.example.org"], now=NOW)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_folder_that_holds_credentials_is_left_as_it_is(authority):
    before = contents(authority.folder)
    message = (
        r"holds credentials already \(ca.key, .*\) and is left as it is; give another folder, or --renew"
    )
    with pytest.raises(FileExistsError, match=message):
        Authority.create(authority.folder, ["other"], now=NOW)
    assert contents(authority.folder) == before


def test_a_folder_without_the_key_of_its_authority_still_holds_credentials(authority):
    (authority.folder / "ca.key").unlink()
    with pytest.raises(
        FileExistsError, match=r"holds credentials already \(ca.pem, server.key, issued.json\)"
    ):
        Authority.create(authority.folder, ["other"], now=NOW)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "https://x",
        "x:80",
        "a b",
        "-x",
        "x-",
        "a..b",
        ".a",
        "10.0.0.300",
        "x" * 64,
        "fe80::1%eth0",
        "ä.org",
    ],
)
def test_a_host_that_is_no_name_and_no_address_is_refused(tmp_path, host):
    message = (
        "host must be a DNS name or an IP address, without scheme and port, got .*; give the port by itself"
    )
    with pytest.raises(ValueError, match=message):
        Authority.create(tmp_path / "line", [host])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("host", ["x", "trainer.example.org", "my_trainer", "10.0.0.1", "::1", "1and1.com"])
def test_names_and_addresses_are_hosts(tmp_path, host):
    authority = Authority.create(tmp_path / "line", [host])
    assert ClientCredential.read(authority.add_worker("robot-1")).host == host


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"hosts": []},
            "hosts must name the server at least once, got none; give its DNS name or IP address",
        ),
        ({"port": 0}, "port must be 1 to 65535, got 0"),
        ({"port": 65536}, "port must be 1 to 65535, got 65536"),
        (
            {"days": 0},
            "days must be at least 1 and at most 3652, when the authority expires, got 0; give other",
        ),
        ({"days": 3653}, "days must be at least 1 and at most 3652, .*, got 3653; give other --days"),
        ({"days": 10**12}, "days must be at least 1 and at most 3652, .*, got 1000000000000"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        Authority.create(tmp_path / "line", **{"hosts": ["host"], "now": NOW} | options)
    assert list(tmp_path.iterdir()) == []


def test_no_certificate_outlives_its_authority(authority):
    late = NOW + timedelta(days=3600)
    with pytest.raises(ValueError, match="at most 52, when the authority expires, got 730"):
        authority.add_worker("robot-1", now=late)
    assert authority.add_worker("robot-1", days=52, now=late).exists()


@pytest.mark.parametrize("name", ["", "a b", "a/b", "../up", "ä", "x" * 65, "a\n", "a:b"])
def test_a_name_of_other_characters_or_another_length_is_refused(authority, name):
    with pytest.raises(ValueError, match=r"a worker's name must be 1 to 64 of A-Z a-z 0-9 . _ -, got "):
        authority.add_worker(name)


@pytest.mark.parametrize("name", ["trainer", "server", "issued", "revoked", "Revoked"])
def test_the_name_of_a_file_beside_the_workers_is_refused(authority, name):
    before = contents(authority.folder)
    with pytest.raises(ValueError, match=f"must not be one of trainer, .*, got '{name}'; give another name"):
        authority.add_worker(name)
    assert contents(authority.folder) == before


@pytest.mark.parametrize("name", ["x" * 64, "..", ".", "A.b_c-9", "ca", ".lock"])
def test_every_other_name_works(authority, name):
    before = contents(authority.folder)
    del before["issued.json"]
    file = authority.add_worker(name, now=NOW)
    assert file == authority.folder / f"{name}.json"
    assert ClientCredential.read(file, NOW).name == name
    assert contents(authority.folder).items() >= before.items()


@pytest.mark.parametrize("name", ["robot-1", "Robot-1"])
def test_a_name_that_exists_is_refused_also_in_other_case_and_when_its_file_is_gone(authority, name):
    authority.add_worker("robot-1").unlink()
    with pytest.raises(
        FileExistsError,
        match=r"the worker robot-1 exists in .*; give another name, revoke it first .*--renew",
    ):
        authority.add_worker(name)


def test_a_revoked_name_may_be_used_again_and_the_old_certificate_stays_out(authority):
    old = ClientCredential.read(authority.add_worker("robot-1", now=NOW), NOW)
    assert authority.revoke("robot-1", NOW) == 1
    assert not (authority.folder / "robot-1.json").exists()
    new = ClientCredential.read(authority.add_worker("robot-1", now=NOW), NOW)
    server = ServerCredentials.read(authority.folder, NOW)
    assert (server.is_revoked(old.cert_pem), server.is_revoked(new.cert_pem)) == (True, False)


def test_renewing_a_worker_leaves_its_old_certificate_valid_and_revoking_ends_both(authority):
    old = ClientCredential.read(authority.add_worker("robot-1", now=NOW), NOW)
    new = ClientCredential.read(authority.add_worker("robot-1", is_renewal=True, now=NOW), NOW)
    assert old.cert_pem != new.cert_pem
    assert old.key_pem != new.key_pem
    server = ServerCredentials.read(authority.folder, NOW)
    assert [server.is_revoked(c.cert_pem) for c in (old, new)] == [False, False]
    assert authority.revoke("robot-1", NOW) == 2
    server = ServerCredentials.read(authority.folder, NOW)
    assert [server.is_revoked(c.cert_pem) for c in (old, new)] == [True, True]


def test_only_a_worker_that_exists_can_be_renewed(authority):
    authority.add_worker("robot-1")
    authority.revoke("robot-1")
    for name in ("robot-1", "robto-1"):
        with pytest.raises(
            ValueError, match=f"--renew is for a worker that exists, but .* no valid one of '{name}'"
        ):
            authority.add_worker(name, is_renewal=True)


def test_renewing_the_server_and_the_trainer_keeps_the_authority_and_the_workers(authority):
    worker = authority.add_worker("robot-1", now=NOW)
    before, later = contents(authority.folder), NOW + timedelta(days=700)
    renewed = authority.renew(["new.example.org"], 4433, now=later)
    after = contents(authority.folder)
    same = {name for name in before if before[name] == after[name]} - {".lock"}
    assert same == {"ca.key", "ca.pem", "robot-1.json", "revoked.json"}
    assert (renewed.hosts, renewed.port) == (("new.example.org",), 4433)
    assert Authority.open(authority.folder) == renewed
    trainer = ClientCredential.read(authority.folder / "trainer.json", later + timedelta(days=729))
    assert (trainer.host, trainer.port) == ("new.example.org", 4433)
    assert ServerCredentials.read(authority.folder, later + timedelta(days=729))
    assert ClientCredential.read(worker, NOW).ca_pem == trainer.ca_pem
    assert Authority.open(authority.folder).renew(now=later) == renewed


def test_the_trainer_is_revoked_and_renewed(authority):
    old = ClientCredential.read(authority.folder / "trainer.json", NOW)
    assert authority.revoke("trainer", NOW) == 1
    authority.renew(now=NOW)
    server = ServerCredentials.read(authority.folder, NOW)
    new = ClientCredential.read(authority.folder / "trainer.json", NOW)
    assert [server.is_revoked(c.cert_pem) for c in (old, new)] == [True, False]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "robot-2",
            "'robot-2' must be a worker of .*line or trainer, and is not; `tmrl credentials list` shows",
        ),
        ("server", "the server cannot be revoked, .*; make new credentials in another folder"),
        ("robot-1", r"robot-1 is revoked since 2026-06-01T12:00:00\+00:00; nothing is left to do"),
    ],
)
def test_what_cannot_be_revoked_is_told(authority, name, message):
    authority.add_worker("robot-1", now=NOW)
    authority.revoke("robot-1", NOW)
    with pytest.raises(ValueError, match=message):
        authority.revoke(name, NOW)


def test_making_a_worker_needs_the_key_of_the_authority_and_revoking_one_does_not(authority):
    authority.add_worker("robot-1", now=NOW)
    (authority.folder / "ca.key").unlink()
    with pytest.raises(
        CredentialError, match=r"ca.key is missing; making credentials needs the authority's key; put it back"
    ):
        authority.add_worker("robot-2", now=NOW)
    assert authority.revoke("robot-1", NOW) == 1
    assert [record.name for record in authority.records()] == ["server", "trainer", "robot-1"]


def test_the_list_says_what_was_made_and_when(authority):
    pem = ClientCredential.read(authority.add_worker("robot-1", days=30, now=NOW), NOW).cert_pem
    authority.revoke("robot-1", NOW + timedelta(days=1))
    assert authority.records()[-1] == Issued(
        "robot-1",
        "worker",
        issued="2026-06-01T12:00:00+00:00",
        expires="2026-07-01T12:00:00+00:00",
        fingerprint=fingerprint_of(pem),
        revoked="2026-06-02T12:00:00+00:00",
    )
    lines = [line.split() for line in table_of(authority.records())]
    assert lines[0] == ["name", "role", "issued", "expires", "revoked", "fingerprint"]
    assert lines[1][:5] == ["server", "server", "2026-06-01", "2028-05-31", "-"]
    assert lines[3] == [
        *("robot-1", "worker", "2026-06-01", "2026-07-01", "2026-06-02", fingerprint_of(pem)),
    ]


def test_a_worker_is_listed_before_its_file_exists(authority, monkeypatch):
    """A crash between the two leaves a worker that can be revoked, and no file that cannot."""

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("tmrl.networking.authority._write_client", crash)
    with pytest.raises(KeyboardInterrupt):
        authority.add_worker("robot-1", now=NOW)
    assert authority.records()[-1].name == "robot-1"
    assert authority.revoke("robot-1", NOW) == 1


def test_every_worker_has_a_key_and_a_number_of_its_own(authority):
    workers = [ClientCredential.read(authority.add_worker(f"robot-{i}", now=NOW), NOW) for i in range(5)]
    assert len({worker.key_pem for worker in workers}) == 5
    assert len({x509.load_pem_x509_certificate(w.cert_pem).serial_number for w in workers}) == 5


def test_no_folder_and_a_folder_without_credentials_are_told(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="none must be a folder of credentials, but is none; give the folder"
    ):
        Authority.open(tmp_path / "none")
    with pytest.raises(
        CredentialError, match=r"issued.json is missing; give the folder that `tmrl credentials init`"
    ):
        Authority.open(tmp_path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"hosts": "x"}, "its 'hosts' must be of type list, got str"),
        ({"hosts": [""]}, "host must be a DNS name"),
        ({"port": 0}, "port must be 1 to 65535, got 0"),
        ({"issued": [{}]}, "its 'name' must be of type str, got NoneType"),
        ({"issued": [3]}, "its 'name' must be of type str, got NoneType"),
        ({"issued": None}, "its 'issued' must be of type list, got NoneType"),
    ],
)
def test_damaged_records_are_told(authority, entries, message):
    file = authority.folder / "issued.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))
    with pytest.raises(CredentialError, match=rf"issued.json is damaged: {message}.*; give the folder"):
        Authority.open(authority.folder).records()


def test_two_that_change_the_folder_at_once_do_not_mix(authority, monkeypatch):
    monkeypatch.setattr("tmrl.networking.authority.LOCK_TIMEOUT_S", 0.05)
    with (
        FileLock(authority.folder / ".lock"),
        pytest.raises(CredentialError, match="line is being changed by another process; try again"),
    ):
        authority.add_worker("robot-1")
    authority.add_worker("robot-1")


def test_a_server_that_another_process_moved_stays_moved(authority):
    stale = Authority.open(authority.folder)
    authority.renew(["new.example.org"], 4433, now=NOW)
    assert ClientCredential.read(stale.add_worker("robot-1", now=NOW), NOW).host == "new.example.org"
    assert stale.renew(now=NOW).port == 4433
    assert Authority.open(authority.folder).hosts == ("new.example.org",)


def test_workers_made_by_several_processes_at_once_are_all_there(authority):
    program = (
        "import sys; from pathlib import Path; from tmrl.networking.authority import Authority; "
        "[Authority.open(Path(sys.argv[1])).add_worker(f'robot-{sys.argv[2]}-{i}') for i in range(5)]"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program, authority.folder, str(n)]) for n in range(3)
    ]
    try:
        assert [process.wait(60) for process in processes] == [0, 0, 0]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    names = {f"robot-{n}-{i}" for n in range(3) for i in range(5)}
    assert {record.name for record in authority.records()} == names | {"server", "trainer"}
    assert {file.stem for file in authority.folder.glob("robot-*.json")} == names
