"""Messages: what the two ends of a line say to each other, and the frames that carry it.

A frame is a length, a header in msgpack and a body of raw bytes. The header is a list: the message's number
in `_KINDS`, then its fields in their order. Bodies, which are parcels, policies and reports, are never parsed
here.

What comes from a peer is hostile until proven otherwise: every field is checked for its type and its size
before anything is made of it, and whatever does not fit is a `ProtocolError`.

    sender                          receiver
      Hello  ------------------------>            who speaks, from which number on
             <------------------------ Welcome    which number comes next, how many Puts may be on their way
      Put    ------------------------>            parcels with consecutive numbers
      Skip   ------------------------>            numbers that were dropped on purpose, and what they held
             <------------------------ Ack        what was received, what is durable
             <------------------------ Nack       a number was left out: begin again at the one expected
             <------------------------ Wish       in what form parcels are wanted from now on
    either end: Refuse, the reason why it hangs up
    policies: Subscribe --> <-- Policy; a trainer publishes: Policy --> <-- Ack; status: Ask --> <-- Report
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import msgpack

from tmrl.errors import ProtocolError

VERSION = 1
"""Of the protocol; both ends must speak the same."""
MAX_HEADER_BYTES = 1 << 20
MAX_FRAME_BYTES = 256 << 20
"""Of the largest frame, a policy or a parcel with its header."""
MAX_PARCEL_BYTES = MAX_FRAME_BYTES - 4 * MAX_HEADER_BYTES
"""Of a parcel, and of a policy: what is added to it on its way must fit the frame, too."""
MAX_REPORT_BYTES = 8 << 20
"""Of a report; one on 4,096 workers has about two."""
MAX_NUMBER = 1 << 62
"""Numbers are below it, so that what is added to one fits 64 bits."""
MAX_SAMPLES = 1 << 32
"""Samples in a parcel that was skipped are fewer."""
MAX_NUMBERS = 1 << 14
"""Most parcels in a Put and most numbers in a Skip."""
MAX_TEXT = 4096
MAX_DEPTH = 16
"""Of documents."""
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Hello:
    """Opens a line of parcels."""

    name: str
    """Who sends."""
    epoch: int
    """One life of its outbox."""
    first: int
    """Number of the oldest parcel it has not yet been told to be durable."""
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class Welcome:
    """Answers a Hello."""

    expected: int
    """Number of the parcel to begin with."""
    window: int
    """Most Puts that may be in flight, sent and not yet acknowledged as received."""
    wishes: Any = None
    """In what form parcels are wanted, as what `json.dumps` takes; None is as they are."""


@dataclass(frozen=True, slots=True)
class Put:
    """Parcels with consecutive numbers."""

    first: int
    """Number of the first."""
    sizes: tuple[int, ...]
    """Bytes of each."""
    backlog: int = 0
    """Parcels that wait behind these, as far as the sender knows."""
    body: bytes | memoryview = b""
    """All of them, joined."""

    @property
    def stop(self) -> int:
        """Number after that of the last."""
        return self.first + len(self.sizes)

    def parcels(self) -> list[memoryview]:
        """The parcels, views of the body."""
        body, parcels, start = memoryview(self.body), [], 0
        for size in self.sizes:
            parcels.append(body[start : start + size])
            start += size
        return parcels


@dataclass(frozen=True, slots=True)
class Skip:
    """Numbers that were dropped on purpose and will not come."""

    first: int
    """Number of the first."""
    samples: tuple[int, ...]
    """How many samples each of them held."""

    @property
    def stop(self) -> int:
        """Number after that of the last."""
        return self.first + len(self.samples)


@dataclass(frozen=True, slots=True)
class Ack:
    """How far the receiver has come; both numbers only ever grow."""

    received: int
    """Every parcel before this number has arrived, or was skipped."""
    durable: int
    """Every parcel before this number is safe, and the sender may forget it."""
    skipped: int = 0
    """Samples that the receiver has noted as dropped by this sender, in this epoch."""


@dataclass(frozen=True, slots=True)
class Nack:
    """A number was left out."""

    expected: int
    """Number to begin again with."""


@dataclass(frozen=True, slots=True)
class Wish:
    """In what form parcels are wanted from now on."""

    wishes: Any
    """As in `Welcome`."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Why this end hangs up."""

    reason: str
    """A sentence for whoever reads the other end's log."""
    is_final: bool = True
    """Whether it would be refused again, so that trying again is of no use."""


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Asks for every policy that is newer."""

    name: str
    """Who asks."""
    version: int
    """Of the policy that it has; 0 for none."""
    digest: int = 0
    """Likewise: another server may have counted to the same number."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy."""

    version: int
    """How many policies there were until then, those that never left included. Where a trainer publishes one,
    the least that it may be: servers come and go, and the trainer goes on counting."""
    digest: int
    """XXH3 of the body."""
    body: bytes | memoryview = b""
    """What the policy's `save` wrote."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Asks for a report."""

    topic: str = "status"


@dataclass(frozen=True, slots=True)
class Report:
    """How the server stands."""

    body: bytes | memoryview = b""
    """As JSON, see `tmrl.networking.report`."""


Message = Hello | Welcome | Put | Skip | Ack | Nack | Wish | Refuse | Subscribe | Policy | Ask | Report

_KINDS: tuple[type[Message], ...] = (
    *(Hello, Welcome, Put, Skip, Ack, Nack, Wish, Refuse, Subscribe, Policy, Ask, Report),
)
_NUMBERS = {kind: number for number, kind in enumerate(_KINDS)}
_FIELDS = {kind: tuple(field for field in fields(kind) if field.name != "body") for kind in _KINDS}
_BODIED = frozenset((Put, Policy, Report))


def to_frame(message: Message, body: Sequence[bytes | memoryview] = ()) -> bytes:
    """A message as a frame.

    Args:
        message: The message; its own `body` may be left empty.
        body: Parts of the body, instead.
    """
    kind = type(message)
    values = [getattr(message, field.name) for field in _FIELDS[kind]]
    header: bytes = msgpack.packb([_NUMBERS[kind], *values])  # pyright: ignore[reportAssignmentType]
    own = getattr(message, "body", b"")
    return b"".join((_LENGTH.pack(len(header)), header, own, *body))


def from_frame(frame: bytes | bytearray | memoryview) -> Message:
    """The message in a frame; a body is a view of the frame.

    Raises:
        ProtocolError: It is none.
    """
    view = memoryview(frame)
    if not _LENGTH.size <= len(view) <= MAX_FRAME_BYTES:
        raise ProtocolError(f"a frame must be {_LENGTH.size} to {MAX_FRAME_BYTES:,} bytes, got {len(view):,}")
    (size,) = _LENGTH.unpack_from(view)
    start = _LENGTH.size + size
    if size > MAX_HEADER_BYTES or start > len(view):
        raise ProtocolError(
            f"a header must be at most {MAX_HEADER_BYTES:,} bytes, and in its frame of {len(view):,}, "
            f"got {size:,}"
        )
    kind, values = _header(view[_LENGTH.size : start])
    values = _checked(kind, values)
    body = view[start:]
    if kind not in _BODIED:
        if body:
            raise ProtocolError(f"the message {kind.__name__} must have no body, got {len(body):,} bytes")
        return _made(kind, values)
    if kind is Put and sum(values[1]) != len(body):
        raise ProtocolError(f"a Put must have the {sum(values[1]):,} bytes that it says, got {len(body):,}")
    return _made(kind, [*values, body])


def _made(kind: Any, values: list[Any]) -> Message:
    return kind(*values)


def _header(header: memoryview) -> tuple[Any, list[Any]]:
    try:
        values = msgpack.unpackb(header, strict_map_key=False, max_array_len=1 << 16, max_map_len=1 << 12)
    except Exception as error:
        raise ProtocolError(f"a header must be msgpack, got {error!r}") from error
    if not isinstance(values, list) or not values or type(values[0]) is not int:
        raise ProtocolError("a header must be a list that begins with the number of its message")
    if not 0 <= values[0] < len(_KINDS):
        raise ProtocolError(f"a message must be one of {len(_KINDS)} kinds, got {values[0]}")
    return _KINDS[values[0]], values[1:]


def _checked(kind: type[Any], values: list[Any]) -> list[Any]:
    expected = _FIELDS[kind]
    if len(values) != len(expected):
        raise ProtocolError(f"a {kind.__name__} must have {len(expected)} fields, got {len(values)}")
    checked: list[Any] = []
    for field, value in zip(expected, values, strict=True):
        name = getattr(field.type, "__name__", str(field.type))
        check = _CHECKS.get(f"{kind.__name__}.{field.name}") or _CHECKS[name]
        if not check(value):
            raise ProtocolError(f"{field.name} of a {kind.__name__} must be a sensible {name}")
        checked.append(tuple(value) if name == "tuple" else value)
    return checked


def _is_number(value: Any) -> bool:
    return type(value) is int and 0 <= value < MAX_NUMBER


def is_uint64(value: Any) -> bool:
    """Whether it is an integer that 64 bits hold."""
    return type(value) is int and 0 <= value < 1 << 64


def is_text(value: Any) -> bool:
    """Whether it is text that may end in logs and on terminals: short, no new lines, no escapes."""
    return type(value) is str and len(value) <= MAX_TEXT and value.isprintable()


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and 0 < len(value) <= MAX_NUMBERS and all(map(_is_number, value))


def _are_samples(value: Any) -> bool:
    return _are_numbers(value) and max(value) < MAX_SAMPLES


def _is_flag(value: Any) -> bool:
    return type(value) is bool


def _is_document(value: Any, depth: int = MAX_DEPTH) -> bool:
    """Whether `json.dumps` takes it."""
    if isinstance(value, dict):
        entries: dict[Any, Any] = value
        return depth > 0 and all(
            type(key) is str and _is_document(entry, depth - 1) for key, entry in entries.items()
        )
    if isinstance(value, list):
        items: list[Any] = value
        return depth > 0 and all(_is_document(item, depth - 1) for item in items)
    return value is None or type(value) in {bool, int, float, str}


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "int": _is_number,
    "str": is_text,
    "bool": _is_flag,
    "tuple": _are_numbers,
    "Any": _is_document,
    "Policy.digest": is_uint64,
    "Subscribe.digest": is_uint64,
    "Skip.samples": _are_samples,
}
"""By type, or by field."""
