"""Records that tell their numbers, for the tests of logs."""

from pathlib import Path

import numpy as np

from tmrl.networking.record_log import RecordLog

MAX_BYTES = 1 << 16


def record(number: int, n_bytes: int = 50) -> bytes:
    """A payload that tells its number."""
    return np.random.default_rng(number).bytes(n_bytes)


def fill(log: RecordLog, n: int, n_bytes: int = 50) -> None:
    for _ in range(n):
        log.append([record(log.next, n_bytes)])


def read_all(log: RecordLog) -> list[bytes]:
    records: list[bytes] = []
    while log.first + len(records) < log.next:
        records += log.read(log.first + len(records), 500)
    return records


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.records"))
