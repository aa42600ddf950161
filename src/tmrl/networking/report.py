"""Reports: how a server stands.

Whoever asks checks what comes: the server may be of another version, or hostile.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import Any, TypeVar

from tmrl.errors import ProtocolError
from tmrl.networking.messages import MAX_REPORT_BYTES, is_text, is_uint64

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TrainerReport:
    """The trainer of a server."""

    is_connected: bool
    seen_s: float | None
    """How long ago it was heard; None if it has not come yet."""


@dataclass(frozen=True, slots=True)
class SpoolReport:
    """What waits for the trainer."""

    parcels: int
    bytes: int
    max_bytes: int
    is_durable: bool
    """Whether it outlives the server's process."""


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """One worker."""

    name: str
    is_connected: bool
    address: str | None
    """None while it is away."""
    seen_s: float
    """How long ago it was heard."""
    samples_per_s: float
    backlog: int
    """Parcels that waited behind its newest."""
    policy_version: int
    """The newest it was sent."""
    parcels: int
    samples: int
    duplicates: int
    """Parcels that came again."""
    skipped: int
    """Samples that it dropped on purpose."""
    lost: int
    """Parcels that neither came nor were skipped."""


@dataclass(frozen=True, slots=True)
class ServerReport:
    """Everything."""

    trainer: TrainerReport
    policy_version: int
    spool: SpoolReport
    workers: tuple[WorkerReport, ...]

    def to_json(self) -> dict[str, Any]:
        """The report as what `json.dumps` takes."""
        return asdict(self) | {"workers": [asdict(worker) for worker in self.workers]}

    def to_bytes(self) -> bytes:
        """The report as JSON, for the line."""
        return json.dumps(self.to_json()).encode()

    @staticmethod
    def from_bytes(body: bytes | memoryview) -> "ServerReport":
        """The report that `to_bytes` wrote; what else is in it is left out.

        Raises:
            ProtocolError: It is none.
        """
        if len(body) > MAX_REPORT_BYTES:
            raise ProtocolError(f"a report must be at most {MAX_REPORT_BYTES:,} bytes, got {len(body):,}")
        try:
            document = json.loads(bytes(body))
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"a report must be JSON, and this is none: {error}") from error
        return _record(ServerReport, "a report", document)


def _record(kind: type[T], name: str, document: Any) -> T:
    if not isinstance(document, dict):
        raise ProtocolError(f"{name} must be an object, got {_shown(document)}")
    values: dict[str, Any] = {}
    for field in fields(kind):  # pyright: ignore[reportArgumentType]
        if field.name not in document:
            raise ProtocolError(f"{name} must say {field.name}, and does not; is the server of this version?")
        values[field.name] = _value(field.type, f"{field.name} of {name}", document[field.name])
    return kind(**values)


def _value(kind: Any, name: str, value: Any) -> Any:
    if kind in _RECORDS:
        return _record(kind, name, value)
    if kind == tuple[WorkerReport, ...]:
        if not isinstance(value, list):
            raise ProtocolError(f"{name} must be a list, got {_shown(value)}")
        workers: list[Any] = value
        return tuple(_record(WorkerReport, "a worker", worker) for worker in workers)
    if not _CHECKS[kind](value):
        raise ProtocolError(
            f"{name} must be a sensible {getattr(kind, '__name__', kind)}, got {_shown(value)}"
        )
    return value


def _shown(value: Any) -> str:
    return ascii(value)[:40]


def _is_float(value: Any) -> bool:
    return type(value) is float and isfinite(value)


_RECORDS = (TrainerReport, SpoolReport)
_CHECKS: dict[Any, Callable[[Any], bool]] = {
    bool: lambda value: type(value) is bool,
    int: is_uint64,
    float: _is_float,
    str: is_text,
    float | None: lambda value: value is None or _is_float(value),
    str | None: lambda value: value is None or is_text(value),
}
"""By the type of a field."""
