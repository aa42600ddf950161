"""The certificates that a server refuses, in a file that is read again while the server runs.

A certificate is named by the SHA-256 of its DER bytes, the fingerprint that every other tool prints. The
file is replaced in one step by `tmrl credentials revoke`; a server looks at most once a second whether it
was, so a robot that was stolen is out a second later, without a restart.

A server does not start without the list, and one that loses it goes on with the last that it read: neither
a deleted file nor a damaged one lets a revoked worker in.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

from tmrl.errors import CredentialError
from tmrl.networking.private_files import entry, read_json, write_private_json

logger = logging.getLogger(__name__)

REVOKED = "revoked.json"
LOOK_EVERY_S = 1.0

_REMEDY = "restore it, or copy it from the folder where `tmrl credentials revoke` is run"


def read_revoked(file: Path) -> dict[str, str]:
    """Reads the list: fingerprint to the time of the revocation, ISO 8601.

    Raises:
        CredentialError: It is missing or damaged.
    """
    content = read_json(file, _REMEDY)
    revoked: dict[str, str] = {}
    for item in entry(content, "revoked", list, file, _REMEDY):
        record: dict[str, Any] = item if isinstance(item, dict) else {}
        fingerprint = entry(record, "fingerprint", str, file, _REMEDY)
        revoked[fingerprint.lower()] = entry(record, "revoked", str, file, _REMEDY)
    return revoked


def write_revoked(file: Path, revoked: dict[str, str]) -> None:
    """Replaces the list in one step."""
    records = [{"fingerprint": fingerprint, "revoked": at} for fingerprint, at in revoked.items()]
    write_private_json(file, {"revoked": records})


class Revocations:
    """The list as a running server sees it; safe to use from several threads."""

    def __init__(self, file: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Reads the list.

        Args:
            file: Where it is.
            clock: Seconds, to know when to look again.

        Raises:
            CredentialError: It is missing or damaged.
        """
        self._file = file
        self._clock = clock
        self._lock = Lock()
        self._seen = self._look()  # before the reading: what changes in between is read again
        self._revoked = read_revoked(file)
        self._looked_s = clock()

    def __contains__(self, fingerprint: str) -> bool:
        """Whether a certificate is revoked, by its fingerprint; looks at the file at most once a second."""
        with self._lock:
            if self._clock() - self._looked_s >= LOOK_EVERY_S:
                self._looked_s = self._clock()
                self._refresh()
            return fingerprint in self._revoked

    def _refresh(self) -> None:
        seen = self._look()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._revoked = read_revoked(self._file)
        except CredentialError as error:
            logger.warning("the revocations read before stay in force: %s", error)

    def _look(self) -> tuple[int, int, int] | None:
        try:
            status = self._file.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino
