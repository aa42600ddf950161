"""Claims: whose samples a parcel may hold.

A server that knows its peers by their certificates lets each send its own samples only. It reads headers, and
no more, so the header is what it holds a worker to; that the samples are those that the header names, whoever
reads them checks.
"""

from collections.abc import Collection

from tmrl.chunk import PLAIN
from tmrl.chunk_buffer import ChunkBuffer
from tmrl.errors import ParcelError
from tmrl.packing import worker_of


def check_own(name: str, workers: Collection[str]) -> None:
    """Checks whose samples a worker says that it sends: its own, those of its lanes, or unstamped ones.

    Raises:
        ParcelError: They are those of somebody else.
    """
    for worker in workers:
        if worker not in {name, PLAIN.worker} and not worker.startswith(f"{name}/"):
            raise ParcelError(
                f"worker {name!r} may send its own samples only, got those of {worker[:64]!r}; "
                "a worker's name must be that of its certificate"
            )


def check_claimed(claimed: Collection[str], buffer: ChunkBuffer) -> None:
    """Checks that what came is of the workers whom its header names.

    Raises:
        ParcelError: Something is of somebody else.
    """
    found = {record.worker for record in buffer.episodes}
    for part in buffer.parts:
        found |= set(map(worker_of, part)) if isinstance(part, list) else {part.chunk.stream.worker}
    if foreign := found - set(claimed):
        raise ParcelError(f"a parcel must name whom its samples are of, but not {min(foreign)[:64]!r}")
