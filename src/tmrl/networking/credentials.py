"""Credentials of the secure line, as a server, a worker and a trainer read them.

    tmrl credentials init DIR             ca.key          signs; for making credentials, no server needs it
                                          ca.pem        |
                                          server.key    | a server reads these four,
                                          server.pem    | and may have them alone
                                          revoked.json  |
                                          issued.json     what was made, for `tmrl credentials list`
                                          trainer.json    all that the trainer needs
    tmrl credentials worker DIR robot-1   robot-1.json    all that this worker needs: its key,
                                                          certificates, the server's address

Both sides prove who they are with a certificate of the same authority (TLS with client certificates); there
is no password. Each worker has a file of its own, and is revoked alone.

Everything is checked when it is read, with the file and the remedy in the message, because what TLS says of
an expired certificate, a wrong clock or a key of another file is next to nothing. Private keys are in no
repr, no message and no cause of an error.

`cryptography` is loaded when credentials are read, not with this module.
"""

import logging
import shlex
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from tmrl.errors import CredentialError
from tmrl.networking.addresses import checked_hosts, checked_port
from tmrl.networking.private_files import entry, read_file, read_json
from tmrl.networking.revocations import REVOKED, Revocations

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

Role = Literal["worker", "trainer"]

CA_CERT = "ca.pem"
SERVER_KEY = "server.key"
SERVER_CERT = "server.pem"
REMARK_BEFORE = timedelta(days=30)

logger = logging.getLogger(__name__)

_PEER = "the certificate of the peer"
_REFUSE = "refuse the peer, or make it new credentials with `tmrl credentials worker`"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a peer is, as its certificate says."""

    name: str
    """Such as robot-1."""
    role: Role
    """What it may do."""
    fingerprint: str
    """SHA-256 of the certificate's DER bytes, 64 hexadecimal digits."""
    expires: datetime
    """When the certificate does."""


@dataclass(frozen=True, slots=True)
class ServerCredentials:
    """What a server proves itself with, and whom it trusts; safe to use from several threads."""

    folder: Path
    """Where it was read."""
    key_pem: bytes = field(repr=False)
    """The server's private key."""
    cert_pem: bytes = field(repr=False)
    """The server's certificate."""
    ca_pem: bytes = field(repr=False)
    """The certificate of the authority that signs every peer."""
    _revocations: Revocations = field(repr=False, compare=False)

    @classmethod
    def read(cls, folder: Path | str, now: datetime | None = None) -> Self:
        """Reads and checks a server's credentials; the authority's key need not be there.

        Args:
            folder: Where `tmrl credentials init` made them, or a copy of the files of the server.
            now: The time, with its zone; that of this machine's clock by default.

        Raises:
            CredentialError: A file is missing, damaged, open to others, expired or not yet valid.
        """
        folder = Path(folder)
        remedy = "make credentials with `tmrl credentials init`, or copy the folder again"
        ca_pem = read_file(folder / CA_CERT, remedy)
        cert_pem = read_file(folder / SERVER_CERT, remedy)
        key_pem = read_file(folder / SERVER_KEY, remedy, is_private=True)
        _check(key_pem, cert_pem, ca_pem, folder / SERVER_CERT, remedy, renewal(folder, "server"), now)
        role, _ = _role_and_name(cert_pem, str(folder / SERVER_CERT), remedy)
        if role != "server":
            raise CredentialError(
                f"{folder / SERVER_CERT} must be the certificate of a server, got one of a {role}; {remedy}"
            )
        return cls(folder, key_pem, cert_pem, ca_pem, Revocations(folder / REVOKED))

    def is_revoked(self, cert_pem: bytes | str) -> bool:
        """Whether a peer's certificate was revoked, up to a second ago.

        Args:
            cert_pem: The certificate, as gRPC's authentication context gives it in `x509_pem_cert`.

        Raises:
            CredentialError: It is no certificate.
        """
        return fingerprint_of(cert_pem) in self._revocations

    def is_over(self, identity: Identity, now: datetime | None = None) -> bool:
        """Whether a peer that was let in must go: its certificate has expired, or was revoked.

        Args:
            identity: Of the peer.
            now: The time, with its zone; that of this machine's clock by default.
        """
        return (now or datetime.now(UTC)) > identity.expires or identity.fingerprint in self._revocations


@dataclass(frozen=True, slots=True)
class ClientCredential:
    """What a worker or a trainer proves itself with, and where its server is."""

    name: str
    """Its name, such as robot-1."""
    role: Role
    """What it may do."""
    host: str
    """The server's DNS name or IP address; one of those in the server's certificate."""
    port: int
    """The server's port."""
    key_pem: bytes = field(repr=False)
    """Its private key."""
    cert_pem: bytes = field(repr=False)
    """Its certificate."""
    ca_pem: bytes = field(repr=False)
    """The certificate of the authority that the server must have one of."""

    @classmethod
    def read(cls, file: Path | str, now: datetime | None = None) -> Self:
        """Reads and checks the file that `tmrl credentials` made for a worker or a trainer.

        Args:
            file: The file, such as robot-1.json.
            now: The time, with its zone; that of this machine's clock by default.

        Raises:
            CredentialError: It is missing, damaged, open to others, expired, not yet valid or a server's.
        """
        file = Path(file)
        remedy = "copy it again from where `tmrl credentials` made it"
        content = read_json(file, remedy, is_private=True)
        key, cert, ca = (_pem(content, part, file, remedy) for part in ("key", "certificate", "ca"))
        host, port = _address(content, file, remedy)
        role, name = _role_and_name(cert, str(file), remedy)
        if role == "server":
            raise CredentialError(f"{file} must be of a worker or a trainer, got one of a server; {remedy}")
        _check(key, cert, ca, file, remedy, renewal("DIR", role, name), now)
        return cls(name, cast("Role", role), host, port, key, cert, ca)


def identity_of(cert_pem: bytes | str) -> Identity:
    """Who the peer of a connection is.

    TLS has checked by then that the authority signed the certificate and that it is valid now; whether it was
    revoked, `ServerCredentials.is_revoked` says.

    Args:
        cert_pem: The certificate, as gRPC's authentication context gives it in `x509_pem_cert`.

    Raises:
        CredentialError: It is no certificate, or not one of a worker or a trainer.
    """
    role, name = _role_and_name(_octets(cert_pem), _PEER, _REFUSE)
    if role == "server":
        raise CredentialError(f"{_PEER} must be of a worker or a trainer, got one of a server; {_REFUSE}")
    expires = _certificate(_octets(cert_pem), _PEER, _REFUSE).not_valid_after_utc
    return Identity(name, cast("Role", role), fingerprint_of(cert_pem), expires)


def fingerprint_of(cert_pem: bytes | str) -> str:
    """SHA-256 of a certificate's DER bytes, 64 hexadecimal digits.

    Raises:
        CredentialError: It is no certificate.
    """
    from tmrl.networking.certificates import fingerprint

    return fingerprint(_certificate(_octets(cert_pem), _PEER, _REFUSE))


def remark_expiry(cert_pem: bytes | str, now: datetime | None = None) -> str | None:
    """Remarks, in the log at level warning, that a certificate has less than 30 days left.

    Args:
        cert_pem: A certificate of a server, a worker or a trainer.
        now: The time, with its zone; that of this machine's clock by default.

    Returns:
        The remark; None while there is more time left.

    Raises:
        CredentialError: It is no such certificate.
    """
    certificate = _certificate(_octets(cert_pem), _PEER, _REFUSE)
    role, name = _role_and_name(_octets(cert_pem), _PEER, _REFUSE)
    left = certificate.not_valid_after_utc - (now or datetime.now(UTC))
    if left >= REMARK_BEFORE:
        return None
    remark = (
        f"the certificate of {role} {name} expires {certificate.not_valid_after_utc:%Y-%m-%d}, "
        f"in {max(left.days, 0)} days; {renewal('DIR', role, name)}"
    )
    logger.warning(remark)
    return remark


def renewal(folder: Path | str, role: str, name: str = "") -> str:
    """The sentence that says how a peer gets a new certificate."""
    where = shlex.quote(str(folder))
    command = f"worker {where} {name}" if role == "worker" else f"init {where}"
    return f"renew it with `tmrl credentials {command} --renew`"


def _check(
    key: bytes, cert: bytes, ca: bytes, file: Path, remedy: str, renew: str, now: datetime | None
) -> None:
    from tmrl.networking.certificates import check_signed, check_time, read_pair

    certificate = _certificate(cert, str(file), remedy)
    authority = _certificate(ca, f"the authority of {file}", remedy)
    read_pair(key, certificate, str(file), remedy)
    check_signed(certificate, authority, str(file), remedy)
    check_time(certificate, now or datetime.now(UTC), str(file), renew)  # the authority's is no narrower


def _certificate(pem: bytes, what: str, remedy: str) -> "Certificate":
    from tmrl.networking.certificates import read_certificate

    return read_certificate(pem, what, remedy)


def _role_and_name(pem: bytes, what: str, remedy: str) -> tuple[str, str]:
    from tmrl.networking.certificates import role_and_name

    return role_and_name(_certificate(pem, what, remedy), what, remedy)


def _pem(content: dict[str, Any], part: str, file: Path, remedy: str) -> bytes:
    return _octets(entry(content, part, str, file, remedy))


def _address(content: dict[str, Any], file: Path, remedy: str) -> tuple[str, int]:
    host, port = entry(content, "host", str, file, remedy), entry(content, "port", int, file, remedy)
    try:
        return checked_hosts([host])[0], checked_port(port)
    except ValueError as error:
        raise CredentialError(f"{file} is damaged: {error}; {remedy}") from error


def _octets(pem: bytes | str) -> bytes:
    return pem.encode() if isinstance(pem, str) else pem
