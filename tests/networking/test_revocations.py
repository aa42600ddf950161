"""Revocations as a running server sees them."""

import json
import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tmrl.errors import CredentialError
from tmrl.networking.authority import Authority
from tmrl.networking.credentials import ClientCredential, ServerCredentials
from tmrl.networking.revocations import Revocations, write_revoked

AT = "2026-06-01T12:00:00+00:00"


class Clock:
    """Seconds that pass when told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_revoked(tmp_path / "revoked.json", {"aa": AT})
    return tmp_path / "revoked.json"


def test_a_running_server_obeys_a_revocation_after_a_second(file, clock):
    revocations = Revocations(file, clock)
    assert "aa" in revocations
    assert "bb" not in revocations
    write_revoked(file, {"aa": AT, "bb": AT})
    clock.now = 0.99
    assert "bb" not in revocations
    clock.now = 1.0
    assert "bb" in revocations


def test_the_file_is_looked_at_once_a_second_and_read_only_when_it_changed(file, clock, monkeypatch):
    revocations = Revocations(file, clock)
    looks, reads = [], []
    look, refresh = revocations._look, Path.open
    monkeypatch.setattr(revocations, "_look", lambda: looks.append(1) or look())
    monkeypatch.setattr(Path, "open", lambda *a, **k: reads.append(1) or refresh(*a, **k))
    for tenth in range(100):
        clock.now = tenth / 10
        assert "bb" not in revocations
    assert (len(looks), len(reads)) == (9, 0)
    write_revoked(file, {})
    clock.now = 11.0
    assert "aa" not in revocations
    assert len(reads) == 1


@pytest.mark.parametrize("content", [None, "", "{}", '{"revoked": [1]}', '{"revoked": [{"fingerprint": 1}]}'])
def test_a_list_that_is_lost_or_damaged_leaves_the_one_before_in_force(file, clock, content, caplog):
    revocations = Revocations(file, clock)
    file.unlink() if content is None else file.write_text(content)
    for clock.now in (2.0, 4.0, 6.0):
        assert "aa" in revocations
    told = [(r.levelno, r.getMessage()) for r in caplog.records]
    assert len(told) == 1  # once, and not each second
    assert told[0][0] == logging.WARNING
    assert told[0][1].startswith(f"the revocations read before stay in force: {file} is ")
    write_revoked(file, {"bb": AT})
    clock.now = 8.0
    assert "bb" in revocations


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is damaged: it holds no JSON"),
        ("{}", "is damaged: its 'revoked' must be of type list, got NoneType"),
        ('{"revoked": [1]}', "is damaged: its 'fingerprint' must be of type str, got NoneType"),
    ],
)
def test_a_server_does_not_start_with_a_damaged_list(file, content, message):
    file.write_text(content)
    with pytest.raises(CredentialError, match=rf"revoked.json {message}.*; restore it, or copy it"):
        Revocations(file)


def test_fingerprints_count_without_regard_to_case(file):
    file.write_text(json.dumps({"revoked": [{"fingerprint": "AB", "revoked": AT}]}))
    assert "ab" in Revocations(file)


def test_one_worker_is_revoked_and_the_others_stay(tmp_path, clock, monkeypatch):
    authority = Authority.create(tmp_path / "line", ["host"])
    pems = [ClientCredential.read(authority.add_worker(f"robot-{i}")).cert_pem for i in range(3)]
    monkeypatch.setattr("tmrl.networking.revocations.LOOK_EVERY_S", 0.0)
    server = ServerCredentials.read(authority.folder)
    authority.revoke("robot-1", datetime.now(UTC))
    assert [server.is_revoked(pem) for pem in pems] == [False, True, False]
    assert server.is_revoked(pems[1].decode())
    with pytest.raises(
        CredentialError, match="the certificate of the peer is damaged: it holds no certificate"
    ):
        server.is_revoked("nothing")
