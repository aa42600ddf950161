"""PolicyStore: the newest policy that a server has, and what its trainer wishes; on disk if the spool is.

A disk may be slow, so a thread writes to it, while the event loop serves everybody else. One write at a time,
in the order in which they came; one that has begun ends, even if who asked for it hangs up. Only then is the
policy told of, to anybody.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

from xxhash import xxh3_64_intdigest

from tmrl.datasets.files import replace_file
from tmrl.errors import ProtocolError
from tmrl.networking.messages import MAX_PARCEL_BYTES, Policy, from_frame, to_frame
from tmrl.networking.tasks import to_its_end

POLICY = "policy.frame"
WISHES = "wishes.json"
MAX_WISHES_BYTES = 1 << 16
MAX_VERSION = 1 << 53


class PolicyStore:
    """Keeps one policy, the newest.

    Args:
        folder: Where it outlives the process; None keeps it in RAM.

    Attributes:
        version: How many policies there were; 0 before the first.
        digest: Of the newest; 0 before the first.
        frame: The newest as a frame.
        wishes: In what form the trainer wants parcels; None before it has said.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self.version = self.digest = 0
        self.frame = b""
        self.wishes: Any = None
        self._turn, self._changed = asyncio.Lock(), asyncio.Condition()
        if folder is not None:
            self._read(folder)

    def _read(self, folder: Path) -> None:
        if (folder / WISHES).exists():
            self.wishes = json.loads((folder / WISHES).read_bytes())
        if (folder / POLICY).exists():
            frame = (folder / POLICY).read_bytes()
            policy = from_frame(frame)
            if isinstance(policy, Policy) and is_whole(policy):
                self.version, self.digest, self.frame = policy.version, policy.digest, frame

    @property
    def mark(self) -> tuple[int, int]:
        """Version and digest of the newest, by which it is told from others; zeros before the first."""
        return self.version, self.digest

    async def newer(self, known: tuple[int, int]) -> tuple[int, int]:
        """Waits for a policy that is not the one known, and returns its mark."""
        # Another mark, not a larger number: a new spool counts anew.
        async with self._changed:
            await self._changed.wait_for(lambda: self.mark not in {(0, 0), known})
            return self.mark

    async def keep(self, policy: Policy) -> int:
        """Keeps a policy instead of the one before, and returns its number; then it is safe.

        Raises:
            ProtocolError: Its digest is not that of its body, or it is too large.
            OSError: The disk does not take it; the one before is kept.
        """
        return await to_its_end(self._keep(policy))

    async def _keep(self, policy: Policy) -> int:
        async with self._turn:
            await asyncio.to_thread(_check, policy)
            if (policy.version, policy.digest) == self.mark:  # the acknowledgement was lost
                return self.version
            version = max(self.version + 1, policy.version)
            self.frame = await asyncio.to_thread(self._safe, Policy(version, policy.digest), policy.body)
            self.version, self.digest = version, policy.digest
        async with self._changed:
            self._changed.notify_all()
        return version

    def _safe(self, policy: Policy, body: bytes | memoryview) -> bytes:
        frame = to_frame(policy, [body])
        self._write(POLICY, frame)
        return frame

    async def keep_wishes(self, wishes: Any) -> None:
        """Keeps what the trainer wishes; then it is safe.

        Raises:
            ProtocolError: It is too much.
            OSError: The disk does not take it.
        """
        document = json.dumps(wishes).encode()
        if len(document) > MAX_WISHES_BYTES:
            raise ProtocolError(f"wishes must be at most {MAX_WISHES_BYTES:,} bytes, got {len(document):,}")
        await to_its_end(self._keep_wishes(wishes, document))

    async def _keep_wishes(self, wishes: Any, document: bytes) -> None:
        async with self._turn:
            await asyncio.to_thread(self._write, WISHES, document)
            self.wishes = wishes

    def _write(self, name: str, content: bytes) -> None:
        if self._folder is not None:
            replace_file(self._folder / name, self._folder / f"{name}.tmp", content)

    async def close(self) -> None:
        """Waits for what is being written."""
        async with self._turn:
            pass


def _check(policy: Policy) -> None:
    if not is_whole(policy):
        raise ProtocolError("a policy must have the digest that it says, got another: it is damaged")
    if len(policy.body) > MAX_PARCEL_BYTES or policy.version > MAX_VERSION:
        raise ProtocolError(
            f"a policy must be at most {MAX_PARCEL_BYTES:,} bytes and number {MAX_VERSION:,}, got "
            f"{len(policy.body):,} bytes and {policy.version:,}"
        )


def is_whole(policy: Policy) -> bool:
    """Whether the digest of a policy is that of its body."""
    return xxh3_64_intdigest(policy.body) == policy.digest


def policy_message(version: int, body: bytes) -> Policy:
    """A policy to publish."""
    return Policy(version, xxh3_64_intdigest(body), body)
