"""Credentials as a server, a worker and a trainer read them."""

import json
import logging
import os
import re
import traceback
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from tmrl.errors import CredentialError, TmrlError
from tmrl.networking.authority import Authority
from tmrl.networking.credentials import (
    ClientCredential,
    ServerCredentials,
    fingerprint_of,
    identity_of,
    remark_expiry,
)

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
posix = pytest.mark.skipif(os.name != "posix", reason="modes are a thing of POSIX")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Credentials of a server and of one worker."""
    folder = tmp_path / "line"
    Authority.create(folder, ["trainer.example.org", "10.0.0.5"], now=NOW).add_worker("robot-1", now=NOW)
    return folder


def certificate_of(file: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(file.read_bytes())


def change(file: Path, **entries: object) -> None:
    """Writes other entries into a JSON file, whose mode stays."""
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def keys_in(folder: Path) -> list[str]:
    """Every run of private key text that lies in a folder."""
    texts = [file.read_text().replace("\\n", "\n") for file in folder.iterdir()]
    bodies = [
        body
        for text in texts
        for body in re.findall(r"BEGIN PRIVATE KEY-----\n(.*?)\n-----END", text, re.DOTALL)
    ]
    return [line for body in bodies for line in body.splitlines()]


def test_the_files_of_a_worker_and_of_the_trainer_say_who_they_are_and_where_the_server_is(folder):
    worker = ClientCredential.read(folder / "robot-1.json", NOW)
    assert (worker.name, worker.role, worker.host, worker.port) == (
        *("robot-1", "worker", "trainer.example.org", 55555),
    )
    trainer = ClientCredential.read(folder / "trainer.json", NOW)
    assert (trainer.name, trainer.role, trainer.host) == ("trainer", "trainer", "trainer.example.org")
    server = ServerCredentials.read(folder, NOW)
    assert server.ca_pem == worker.ca_pem == trainer.ca_pem == (folder / "ca.pem").read_bytes()
    identity = identity_of(worker.cert_pem)
    assert (identity.name, identity.role) == ("robot-1", "worker")
    assert identity_of(trainer.cert_pem.decode()).role == "trainer"


def test_a_fingerprint_is_the_sha_256_that_other_tools_print(folder):
    pem = ClientCredential.read(folder / "robot-1.json", NOW).cert_pem
    der = x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(der)
    assert fingerprint_of(pem) == identity_of(pem).fingerprint == digest.finalize().hex()
    # What a peer may vary without another certificate does not give it another fingerprint.
    assert fingerprint_of(b"a remark\n" + pem + b"\n" + (folder / "ca.pem").read_bytes()) == fingerprint_of(
        pem
    )


def test_certificates_are_for_one_purpose_on_p_256_with_random_numbers(folder):
    server, authority = certificate_of(folder / "server.pem"), certificate_of(folder / "ca.pem")
    client = x509.load_pem_x509_certificate(ClientCredential.read(folder / "robot-1.json", NOW).cert_pem)
    purposes = [
        list(c.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) for c in (server, client)
    ]
    assert purposes == [[ExtendedKeyUsageOID.SERVER_AUTH], [ExtendedKeyUsageOID.CLIENT_AUTH]]
    for certificate, is_authority in ((server, False), (client, False), (authority, True)):
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
        assert usage.critical
        assert (usage.value.key_cert_sign, usage.value.digital_signature) == (is_authority, not is_authority)
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        assert basic.critical
        assert basic.value.ca is is_authority
        assert certificate.public_key().curve.name == "secp256r1"
        assert certificate.serial_number.bit_length() > 100
    assert len({c.serial_number for c in (server, client, authority)}) == 3


def test_the_server_is_reached_at_each_host_and_on_its_own_machine(folder):
    names = certificate_of(folder / "server.pem").extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert names.value.get_values_for_type(x509.DNSName) == ["trainer.example.org", "localhost"]
    assert list(map(str, names.value.get_values_for_type(x509.IPAddress))) == ["10.0.0.5", "127.0.0.1"]


def test_certificates_are_valid_from_a_day_ago_two_years_for_peers_and_ten_for_the_authority(folder):
    for file, days in (("ca.pem", 3652), ("server.pem", 730)):
        certificate = certificate_of(folder / file)
        assert certificate.not_valid_before_utc == NOW - timedelta(days=1)
        assert certificate.not_valid_after_utc == NOW + timedelta(days=days)


def test_a_server_needs_neither_the_key_of_the_authority_nor_the_records(folder, tmp_path):
    copy = tmp_path / "server"
    copy.mkdir(mode=0o700)
    for name in ("server.key", "server.pem", "ca.pem", "revoked.json"):
        (folder / name).rename(copy / name)
    server = ServerCredentials.read(copy, NOW)
    assert not server.is_revoked(server.cert_pem)


@pytest.mark.parametrize("name", ["server.key", "server.pem", "ca.pem", "revoked.json"])
def test_a_server_without_one_of_its_files_does_not_start(folder, name):
    (folder / name).unlink()
    with pytest.raises(CredentialError, match=rf"{name} is missing; .*`tmrl credentials (init|revoke)`"):
        ServerCredentials.read(folder, NOW)


@pytest.mark.parametrize(
    ("when", "message"),
    [
        (
            NOW + timedelta(days=731),
            r"server.pem expired 2028-05-31 12:00 UTC; renew it with .*init .* --renew",
        ),
        (
            NOW - timedelta(days=2),
            r"server.pem is not yet valid: it begins 2026-05-31 12:00 UTC, .*set the clock",
        ),
    ],
)
def test_a_server_whose_certificate_is_not_valid_now_does_not_start(folder, when, message):
    with pytest.raises(CredentialError, match=message):
        ServerCredentials.read(folder, when)


def test_a_worker_hears_of_its_expired_certificate_and_of_a_wrong_clock(folder):
    file = folder / "robot-1.json"
    with pytest.raises(
        CredentialError,
        match=r"robot-1.json expired 2028-05-31 12:00 UTC; renew it with .* worker DIR robot-1 --renew`",
    ):
        ClientCredential.read(file, NOW + timedelta(days=731))
    with pytest.raises(
        CredentialError, match=r"is not yet valid: .* clock says 1970-01-01 00:00 UTC; set the clock"
    ):
        ClientCredential.read(file, datetime(1970, 1, 1, tzinfo=UTC))
    assert ClientCredential.read(file, NOW - timedelta(hours=23))  # a clock that is slow by a day


def test_the_real_clock_is_the_default(tmp_path):
    Authority.create(tmp_path / "line", ["host"]).add_worker("robot-1")
    assert ServerCredentials.read(tmp_path / "line")
    assert ClientCredential.read(tmp_path / "line" / "robot-1.json").name == "robot-1"


@posix
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_private_file_that_is_open_to_others_is_refused(folder, mode):
    for file, read in (
        (folder / "robot-1.json", lambda: ClientCredential.read(folder / "robot-1.json", NOW)),
        (folder / "server.key", lambda: ServerCredentials.read(folder, NOW)),
        (folder / "ca.key", lambda: Authority.open(folder).add_worker("robot-2", now=NOW)),
    ):
        file.chmod(mode)
        message = rf"{file.name} must be open to its owner alone, got mode {mode:04o}; run `chmod 600 "
        with pytest.raises(CredentialError, match=message):
            read()
        file.chmod(0o600)
        read()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged: it holds no JSON; copy it again"),
        (b"\xff\xfe", "is damaged: it holds no JSON; copy it again"),
        (b"[" * 100_000, "is damaged: it holds no JSON; copy it again"),
        (b"[1]", "is damaged: it holds no JSON object; copy it again"),
        (b"{}", "is damaged: its 'key' must be of type str, got NoneType; copy it again"),
        (b" " * (2**24 + 1), "must be at most 16,777,216 bytes, but is larger; copy it again"),
    ],
)
def test_a_damaged_file_of_a_worker_is_refused(folder, content, message):
    file = folder / "robot-1.json"
    file.write_bytes(content)
    with pytest.raises(CredentialError, match=rf"robot-1.json {message}"):
        ClientCredential.read(file, NOW)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"port": "55555"}, "its 'port' must be of type int, got str"),
        ({"port": True}, "its 'port' must be of type int, got bool"),
        ({"port": 0}, "port must be 1 to 65535, got 0; copy it again"),
        (
            {"host": "https://x"},
            "host must be a DNS name or an IP address, without scheme and port, got 'https://x'",
        ),
        ({"key": "no key"}, "it holds no private key"),
        ({"certificate": "none"}, "it holds no certificate"),
        ({"ca": "none"}, "it holds no certificate"),
    ],
)
def test_a_file_of_a_worker_with_a_damaged_entry_is_refused(folder, entries, message):
    change(folder / "robot-1.json", **entries)
    with pytest.raises(CredentialError, match=rf"robot-1.json is damaged: {message}"):
        ClientCredential.read(folder / "robot-1.json", NOW)


def test_missing_and_unreadable_files_are_told(folder):
    with pytest.raises(CredentialError, match=r"robot-2.json is missing; copy it again"):
        ClientCredential.read(folder / "robot-2.json", NOW)
    with pytest.raises(CredentialError, match=r"line cannot be read: .*; copy it again"):
        ClientCredential.read(folder, NOW)


def test_a_key_a_certificate_or_an_authority_of_another_is_refused(folder, tmp_path):
    file, other = folder / "robot-1.json", tmp_path / "other"
    Authority.create(other, ["host"], now=NOW)
    original, trainer = json.loads(file.read_text()), json.loads((folder / "trainer.json").read_text())
    change(file, key=trainer["key"])
    with pytest.raises(CredentialError, match="its key is that of another certificate; copy it again"):
        ClientCredential.read(file, NOW)
    change(file, key=original["key"], ca=(other / "ca.pem").read_text())
    with pytest.raises(CredentialError, match=r"robot-1.json is signed by another authority; copy it again"):
        ClientCredential.read(file, NOW)


def test_roles_are_not_taken_for_one_another(folder):
    file = folder / "robot-1.json"
    server_pem, server_key = (folder / "server.pem").read_text(), (folder / "server.key").read_text()
    worker = json.loads(file.read_text())
    change(file, key=server_key, certificate=server_pem)
    with pytest.raises(
        CredentialError, match=r"robot-1.json must be of a worker or a trainer, got one of a server"
    ):
        ClientCredential.read(file, NOW)
    with pytest.raises(
        CredentialError, match="the peer must be of a worker or a trainer, got one of a server"
    ):
        identity_of(server_pem)
    (folder / "server.pem").write_text(worker["certificate"])
    (folder / "server.key").write_text(worker["key"])
    with pytest.raises(
        CredentialError, match=r"server.pem must be the certificate of a server, got one of a worker"
    ):
        ServerCredentials.read(folder, NOW)


def test_a_certificate_that_names_no_peer_is_no_identity(folder):
    message = "the certificate of the peer must name one tmrl worker, trainer or server, and does not; refuse"
    with pytest.raises(CredentialError, match=message):
        identity_of((folder / "ca.pem").read_bytes())
    with pytest.raises(
        CredentialError, match="the certificate of the peer is damaged: it holds no certificate"
    ):
        identity_of("nothing")
    with pytest.raises(
        CredentialError, match="the certificate of the peer is damaged: it holds no certificate"
    ):
        fingerprint_of("nothing")


def test_a_certificate_near_its_end_is_remarked_on_in_the_log(folder, caplog):
    pem = ClientCredential.read(folder / "robot-1.json", NOW).cert_pem
    end = NOW + timedelta(days=730)
    with caplog.at_level(logging.WARNING):
        assert remark_expiry(pem, end - timedelta(days=30)) is None
        assert caplog.records == []
        remark = remark_expiry(pem, end - timedelta(days=29, hours=12))
    assert remark == (
        "the certificate of worker robot-1 expires 2028-05-31, in 29 days; "
        "renew it with `tmrl credentials worker DIR robot-1 --renew`"
    )
    assert [(r.levelname, r.getMessage(), r.name) for r in caplog.records] == [
        ("WARNING", remark, "tmrl.networking.credentials")
    ]
    assert "`tmrl credentials init DIR --renew`" in str(
        remark_expiry((folder / "server.pem").read_bytes(), end)
    )


def test_private_keys_are_in_no_repr(folder):
    keys = keys_in(folder)
    assert len(keys) >= 8  # of the authority, the server, the trainer and the worker; each has several lines
    shown = "".join(
        map(
            repr,
            (
                ServerCredentials.read(folder, NOW),
                ClientCredential.read(folder / "robot-1.json", NOW),
                Authority.open(folder),
                Authority.open(folder)._pair(),
            ),
        )
    )
    assert "robot-1" in shown
    assert [key for key in keys if key in shown] == []


def damage(file: Path, how: str) -> None:
    text = file.read_text()
    if how == "cut":
        file.write_text(text[:-20])
    elif how == "flip":
        file.write_text(text.replace("MIGH", "MIGX"))
    elif how == "wide":
        file.chmod(0o644)
    else:
        file.write_text(text.replace('"port": 55555', '"port": "x"').replace("PRIVATE KEY", "PRIVATE KEX"))


@pytest.mark.parametrize("how", ["cut", "flip", "entry", pytest.param("wide", marks=posix)])
def test_private_keys_are_in_no_message_no_cause_and_no_log(folder, how, caplog):
    keys = keys_in(folder)
    damage(folder / "robot-1.json", how)
    damage(folder / "server.key", how)
    with caplog.at_level(logging.DEBUG):
        for read in (
            lambda: ClientCredential.read(folder / "robot-1.json", NOW),
            lambda: ServerCredentials.read(folder, NOW),
        ):
            with pytest.raises(CredentialError) as caught:
                read()
            told = "".join(traceback.format_exception(caught.value))
            chain: BaseException | None = caught.value
            while chain is not None:
                told += repr(chain) + repr(vars(chain)) + repr(getattr(chain, "doc", ""))
                chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
            assert [key for key in keys if key in told] == []
    assert [key for key in keys if key in caplog.text] == []


def test_the_error_is_one_of_the_tree_and_a_value_error():
    assert issubclass(CredentialError, TmrlError)
    assert issubclass(CredentialError, ValueError)
