"""The folder from which credentials are made and revoked: the work behind `tmrl credentials`.

What was made is written to `issued.json` before the file of the peer is, so that nothing is ever out that
cannot be revoked by name. That list and the revocations are the truth; a worker's file in the folder is a
delivery, and may be moved to the robot. One process at a time changes the folder.

Renewing leaves the old certificate valid until it expires, so that a robot works on until its new file is
there. Revoking a name revokes every certificate that was ever made for it.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from filelock import FileLock, Timeout

from tmrl.errors import CredentialError
from tmrl.networking.addresses import DEFAULT_PORT, check_name, checked_hosts, checked_port
from tmrl.networking.credentials import CA_CERT, SERVER_CERT, SERVER_KEY
from tmrl.networking.issued import Issued, moment, parse_record, record_of, write_records
from tmrl.networking.private_files import (
    entry,
    make_private_folder,
    read_file,
    read_json,
    write_private,
    write_private_json,
)
from tmrl.networking.revocations import REVOKED, read_revoked, write_revoked

if TYPE_CHECKING:
    from tmrl.networking.certificates import KeyPair

CA_KEY = "ca.key"
ISSUED = "issued.json"
DAYS = 730
LOCAL_HOSTS = ("localhost", "127.0.0.1")
LOCK_TIMEOUT_S = 10.0

_REMEDY = "give the folder that `tmrl credentials init` made, or restore it"


@dataclass(frozen=True, slots=True)
class Authority:
    """A folder of credentials, and the address that clients are given."""

    folder: Path
    hosts: tuple[str, ...]
    """What the server's certificate names; the first is the address of the clients."""
    port: int

    @classmethod
    def create(
        cls,
        folder: Path,
        hosts: Sequence[str],
        port: int = DEFAULT_PORT,
        days: int = DAYS,
        now: datetime | None = None,
    ) -> Self:
        """Makes an authority, a server's certificate and the trainer's file.

        Args:
            folder: A folder to make, or one that holds no credentials yet.
            hosts: DNS names and IP addresses of the server; clients use the first.
            port: The server's port.
            days: How long the server's and the trainer's certificates are valid.
            now: The time, with its zone; that of this machine's clock by default.

        Raises:
            ValueError: A host, the port or the number of days cannot be.
            FileExistsError: The folder holds credentials.
            CredentialError: The folder is open to others.
        """
        from tmrl.networking.certificates import make_authority

        authority = cls(folder, checked_hosts(hosts), checked_port(port))
        _check_is_free(folder)
        now = _second(now)
        pair = make_authority(now)
        peers = authority._make_own(pair, days, now)  # the number of days is checked before anything is there
        make_private_folder(folder)
        with authority._changing():
            _check_is_free(folder)
            write_private(folder / CA_KEY, pair.key_pem)
            write_private(folder / CA_CERT, pair.cert_pem)
            write_revoked(folder / REVOKED, {})
            authority._put_own(peers, [], pair)
        return authority

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Opens a folder that `create` made.

        Raises:
            FileNotFoundError: There is no such folder.
            CredentialError: It holds no credentials, or damaged ones.
        """
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} must be a folder of credentials, but is none; {_REMEDY}")
        file = folder / ISSUED
        content = read_json(file, _REMEDY)
        hosts = entry(content, "hosts", list, file, _REMEDY)
        port = entry(content, "port", int, file, _REMEDY)
        try:
            return cls(folder, checked_hosts(list(map(str, hosts))), checked_port(port))
        except ValueError as error:
            raise CredentialError(f"{file} is damaged: {error}; {_REMEDY}") from error

    def renew(
        self,
        hosts: Sequence[str] = (),
        port: int | None = None,
        days: int = DAYS,
        now: datetime | None = None,
    ) -> "Authority":
        """Makes a new server's certificate and trainer's file; the old ones stay valid until they expire.

        Args:
            hosts: As of `create`; none keeps those of before. Files of workers keep the address they have.
            port: As of `create`; None keeps that of before.
            days: As of `create`.
            now: The time, with its zone; that of this machine's clock by default.

        Raises:
            ValueError: A host, the port or the number of days cannot be.
            CredentialError: The authority's key or another file is missing or damaged.
        """
        with self._changing():
            current = Authority.open(self.folder)  # another process may have moved the server
            renewed = Authority(
                self.folder,
                checked_hosts(hosts) if hosts else current.hosts,
                current.port if port is None else checked_port(port),
            )
            pair, now = self._pair(), _second(now)
            renewed._put_own(renewed._make_own(pair, days, now), self.records(), pair)
        return renewed

    def add_worker(
        self, name: str, days: int = DAYS, is_renewal: bool = False, now: datetime | None = None
    ) -> Path:
        """Makes a worker's file.

        Args:
            name: The worker's name, 1 to 64 of `[A-Za-z0-9._-]`.
            days: How long its certificate is valid.
            is_renewal: Whether the name may have a valid certificate already, which stays valid.
            now: The time, with its zone; that of this machine's clock by default.

        Returns:
            The file, which holds the worker's private key.

        Raises:
            ValueError: The name or the number of days cannot be.
            FileExistsError: The worker exists and is not renewed.
            CredentialError: The authority's key or another file is missing or damaged.
        """
        from tmrl.networking.certificates import issue

        check_name(name)
        with self._changing():
            current = Authority.open(self.folder)  # another process may have moved the server
            records = self.records()
            self._check_worker_may_be_made(name, is_renewal, records)
            authority, now = self._pair(), _second(now)
            pair = issue(authority, "worker", name, days, now)
            write_records(
                current.folder / ISSUED,
                current.hosts,
                current.port,
                [*records, record_of(name, "worker", pair, now)],
            )
            return _write_client(current, name, "worker", pair, authority)

    def _check_worker_may_be_made(self, name: str, is_renewal: bool, records: list[Issued]) -> None:
        # Without regard to case, because the files of both would be one on some systems.
        taken = [r.name for r in records if r.revoked is None and r.name.lower() == name.lower()]
        if is_renewal and name not in taken:
            raise ValueError(
                f"--renew is for a worker that exists, but {self.folder} has no valid one of {name!r}; "
                "leave --renew out to make one"
            )
        if taken and not is_renewal:
            raise FileExistsError(
                f"the worker {taken[0]} exists in {self.folder}; give another name, revoke it first with "
                "`tmrl credentials revoke`, or renew it with --renew"
            )

    def revoke(self, name: str, now: datetime | None = None) -> int:
        """Revokes every certificate of a worker or of the trainer, and removes its file if it is here.

        Args:
            name: A worker's name, or "trainer".
            now: The time, with its zone; that of this machine's clock by default.

        Returns:
            How many certificates were revoked now.

        Raises:
            ValueError: There is no such worker, it is revoked, or it is the server.
            CredentialError: A file is missing or damaged.
        """
        with self._changing():
            records = [record for record in self.records() if record.name == name]
            if not records:
                raise ValueError(
                    f"{name!r} must be a worker of {self.folder} or trainer, and is not; "
                    "`tmrl credentials list` shows them"
                )
            if records[0].role == "server":
                raise ValueError(
                    "the server cannot be revoked, because workers hold no list of revocations; "
                    "make new credentials in another folder"
                )
            valid = [record for record in records if record.revoked is None]
            if not valid:
                raise ValueError(f"{name} is revoked since {records[-1].revoked}; nothing is left to do")
            at = moment(_second(now))
            revoked = read_revoked(self.folder / REVOKED) | {record.fingerprint: at for record in valid}
            write_revoked(self.folder / REVOKED, revoked)
            (self.folder / f"{name}.json").unlink(missing_ok=True)
            return len(valid)

    def records(self) -> list[Issued]:
        """Every certificate that was made, oldest first.

        Raises:
            CredentialError: A file is missing or damaged.
        """
        file = self.folder / ISSUED
        revoked = read_revoked(self.folder / REVOKED)
        listed: list[Any] = entry(read_json(file, _REMEDY), "issued", list, file, _REMEDY)
        return [
            parse_record(item if isinstance(item, dict) else {}, file, revoked, _REMEDY) for item in listed
        ]

    @contextmanager
    def _changing(self) -> Generator[None]:
        try:
            with FileLock(self.folder / ".lock", timeout=LOCK_TIMEOUT_S, mode=0o600):
                yield
        except Timeout as error:
            raise CredentialError(f"{self.folder} is being changed by another process; try again") from error

    def _pair(self) -> "KeyPair":
        from tmrl.networking.certificates import read_certificate, read_pair

        ca, key = self.folder / CA_CERT, self.folder / CA_KEY
        remedy = "making credentials needs the authority's key; put it back, or go where it is"
        certificate = read_certificate(read_file(ca, _REMEDY), str(ca), _REMEDY)
        return read_pair(read_file(key, remedy, is_private=True), certificate, str(key), remedy)

    def _make_own(self, authority: "KeyPair", days: int, now: datetime) -> list[tuple[Issued, "KeyPair"]]:
        from tmrl.networking.certificates import issue

        hosts = tuple(dict.fromkeys((*self.hosts, *LOCAL_HOSTS)))
        server = issue(authority, "server", "server", days, now, hosts)
        trainer = issue(authority, "trainer", "trainer", days, now)
        return [
            (record_of("server", "server", server, now), server),
            (record_of("trainer", "trainer", trainer, now), trainer),
        ]

    def _put_own(
        self, peers: list[tuple[Issued, "KeyPair"]], records: list[Issued], authority: "KeyPair"
    ) -> None:
        (server, server_pair), (trainer, trainer_pair) = peers
        write_records(self.folder / ISSUED, self.hosts, self.port, [*records, server, trainer])
        write_private(self.folder / SERVER_KEY, server_pair.key_pem)
        write_private(self.folder / SERVER_CERT, server_pair.cert_pem)
        _write_client(self, "trainer", "trainer", trainer_pair, authority)


def _check_is_free(folder: Path) -> None:
    found = [name for name in (CA_KEY, CA_CERT, SERVER_KEY, ISSUED) if (folder / name).exists()]
    if found:
        raise FileExistsError(
            f"{folder} holds credentials already ({', '.join(found)}) and is left as it is; give another "
            "folder, or --renew for a new server's certificate and trainer.json of the same authority"
        )


def _write_client(authority: Authority, name: str, role: str, pair: "KeyPair", ca: "KeyPair") -> Path:
    file = authority.folder / f"{name}.json"
    content = {
        "name": name,
        "role": role,
        "host": authority.hosts[0],
        "port": authority.port,
        "key": pair.key_pem.decode(),
        "certificate": pair.cert_pem.decode(),
        "ca": ca.cert_pem.decode(),
    }
    write_private_json(file, content)
    return file


def _second(now: datetime | None) -> datetime:
    """The time to the second, as certificates have it; that of this machine's clock by default."""
    return (now or datetime.now(UTC)).replace(microsecond=0)
