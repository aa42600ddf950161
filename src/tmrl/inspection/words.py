"""How figures and names are written, on a terminal and on a page."""

import math
import re

DASH = "-"
"""Stands where there is no figure."""

_UNPRINTABLE = re.compile(r"[^\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SIZES = ("bytes", "kB", "MB", "GB", "TB")
_DURATIONS = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"))


def printable(name: str) -> str:
    """A name without what could steer a terminal or break a document: control characters, halves of pairs."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", name)


def number(value: float, digits: int = 4) -> str:
    """A number with so many significant digits, in groups of three; a dash for NaN."""
    if math.isnan(value):
        return DASH
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    size = abs(value)
    if size >= 1e9 or 0 < size < 1e-4:
        return f"{value:.3g}"
    if size < 1:
        return f"{value:.{digits - 1}g}"
    text = f"{value:,.{max(0, digits - len(f'{size:.0f}'))}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def size(n_bytes: float) -> str:
    """A number of bytes, in the unit that suits it."""
    unit = 0
    while n_bytes >= 999.5 and unit < len(_SIZES) - 1:
        n_bytes, unit = n_bytes / 1000, unit + 1
    return f"{n_bytes:.{0 if unit == 0 or n_bytes >= 99.95 else 1}f} {_SIZES[unit]}"


def share(part: float, whole: float) -> str:
    """A part in percent; a dash of nothing."""
    if not whole:
        return DASH
    percent = 100 * part / whole
    return "< 0.1 %" if 0 < percent < 0.05 else f"{percent:.1f} %"


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    per_unit, unit = unit_of(seconds)
    return f"{number(seconds / per_unit, 3)} {unit}"


def unit_of(seconds: float) -> tuple[float, str]:
    """Seconds in the unit that suits a time, and its name."""
    return next(((length, unit) for length, unit in _DURATIONS if seconds >= 2 * length), (1.0, "s"))


def counted(n: int, one: str, many: str | None = None) -> str:
    """A number with its noun."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"
