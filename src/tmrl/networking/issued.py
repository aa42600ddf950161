"""The record of every certificate that an authority made, and its table."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tmrl.networking.credentials import fingerprint_of
from tmrl.networking.private_files import entry, write_private_json

if TYPE_CHECKING:
    from tmrl.networking.certificates import KeyPair


@dataclass(frozen=True, slots=True)
class Issued:
    """One certificate that was made; times in ISO 8601, UTC."""

    name: str
    role: str
    issued: str
    expires: str
    fingerprint: str
    """SHA-256 of the DER bytes, 64 hexadecimal digits."""
    revoked: str | None = None
    """When it was revoked."""


def table_of(records: Sequence[Issued]) -> list[str]:
    """Lines of a table, a head first; the fingerprints are whole, so that they can be compared."""
    head = ("name", "role", "issued", "expires", "revoked", "fingerprint")
    rows = [
        head,
        *(
            (r.name, r.role, r.issued[:10], r.expires[:10], (r.revoked or "-")[:10], r.fingerprint)
            for r in records
        ),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def record_of(name: str, role: str, pair: "KeyPair", now: datetime) -> Issued:
    """The record of a certificate that was made just now."""
    expires = moment(pair.certificate.not_valid_after_utc)
    return Issued(name, role, moment(now), expires, fingerprint_of(pair.cert_pem))


def parse_record(item: dict[str, Any], file: Path, revoked: dict[str, str], remedy: str) -> Issued:
    """The record in an entry of a file.

    Raises:
        CredentialError: A part is missing or of another type.
    """
    keys = ("name", "role", "issued", "expires", "fingerprint")
    name, role, issued, expires, fingerprint = (entry(item, key, str, file, remedy) for key in keys)
    return Issued(name, role, issued, expires, fingerprint, revoked.get(fingerprint))


def write_records(file: Path, hosts: Sequence[str], port: int, records: Sequence[Issued]) -> None:
    """Replaces the records in one step; what is revoked stands in the list of revocations alone."""
    listed = [{key: value for key, value in asdict(r).items() if key != "revoked"} for r in records]
    write_private_json(file, {"hosts": list(hosts), "port": port, "issued": listed})


def moment(time: datetime) -> str:
    """A time as it is written here: ISO 8601, UTC, to the second."""
    return time.astimezone(UTC).isoformat(timespec="seconds")
