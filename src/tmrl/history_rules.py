"""The rules of a `History`: how one part of an observation is kept."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmrl.errors import HistoryError
from tmrl.nest import as_array
from tmrl.stamping import owned

_CODES = ("uint8", "int8", "uint16", "int16")
_RESTORED = ("float32", "float64")


class Rule:
    """How one part of an observation is kept. It stands for every leaf of that part."""

    @property
    def depth(self) -> int:
        """Frames of a stack, of which one is kept; 0 for what is no stack."""
        return 0

    @property
    def codec(self) -> "Quantized | None":
        """How numbers are kept; None as they are."""
        return None

    def kept(self, leaf: Any, name: str) -> Any:
        """What is kept of a leaf; nothing of it is aliased unless it is kept whole.

        Raises:
            HistoryError: It is not what the rule says; the message calls it by `name`.
        """
        if self.depth:
            n = len(leaf) if np.ndim(leaf) else 0
            if n != self.depth:
                raise HistoryError(
                    f"{name} must hold {self.depth} frames along its first axis to be Stacked({self.depth}), "
                    f"got shape {np.shape(leaf)}; declare the k of the stack, or Latest()"
                )
            leaf = owned(leaf[-1])
        return leaf if self.codec is None else self.codec.encode(leaf, name)


@dataclass(frozen=True)
class Latest(Rule):
    """Kept as it is."""


@dataclass(frozen=True)
class Quantized(Rule):
    """Floats in a fixed range, kept as small integers: `round(x * scale)`, handed out as `integer / scale`.

    This loses something, and says so: an observation comes back as what was sent, and checksums compare it
    after the rounding. Images that were made of integers by dividing by `scale` come back bit by bit.

    Args:
        dtype: Of the integers: `uint8`, `int8`, `uint16` or `int16`.
        scale: What 1.0 becomes.
        restored: Dtype of the floats: `float32` or `float64`.

    Raises:
        ValueError: An argument is none of these.
    """

    dtype: Any = "uint8"
    scale: float = 255.0
    restored: Any = "float32"

    def __post_init__(self) -> None:
        for name, known in (("dtype", _CODES), ("restored", _RESTORED)):
            found = np.dtype(getattr(self, name)).name
            if found not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {found}")
            object.__setattr__(self, name, found)
        if not 0 < self.scale < np.inf:
            raise ValueError(f"scale must be above 0 and finite, got {self.scale}")
        object.__setattr__(self, "scale", float(self.scale))

    @property
    def codec(self) -> "Quantized":
        """This one."""
        return self

    def encode(self, leaf: Any, name: str) -> NDArray[Any]:
        """Rounds floats to integers.

        Raises:
            HistoryError: They are of another dtype, or out of range.
        """
        array, is_bfloat16 = as_array(leaf)
        if is_bfloat16 or array.dtype != self.restored:
            raise HistoryError(
                f"{name} must be {self.restored} to be Quantized, got "
                f"{'bfloat16' if is_bfloat16 else array.dtype}; say so with restored=, or declare Latest()"
            )
        codes = np.rint(array.astype(np.float64) * self.scale)
        limits = np.iinfo(self.dtype)
        is_within = (codes >= limits.min) & (codes <= limits.max)
        if not is_within.all():
            raise HistoryError(
                f"{name} must lie in [{limits.min / self.scale:g}, {limits.max / self.scale:g}] to be "
                f"Quantized as {self.dtype}, got {array[~is_within].flat[0]}; scale it in an "
                "obs_preprocessor, or declare Latest()"
            )
        return codes.astype(self.dtype)

    def decode(self, codes: Any) -> Any:
        """The floats that integers stand for; one IEEE division, so that every device gives the same bits."""
        return codes.astype(self.restored) / np.dtype(self.restored).type(self.scale)


@dataclass(frozen=True)
class Stacked(Rule):
    """The last `k` frames along the first axis, newest last: one of them is sent and stored.

    At a reset all are the first frame, as Gymnasium's `FrameStackObservation` makes them. This is for actors
    that need the stack; if only the agent needs it, `FrameStack` stacks single frames in the memory.

    Args:
        k: Frames.
        frames: `Latest()` or a `Quantized`, how one frame is kept.

    Raises:
        ValueError: `k` is below 1.
        TypeError: `frames` is another rule.
    """

    k: int
    frames: Rule = Latest()

    def __post_init__(self) -> None:
        _check_k(self.k)
        if not isinstance(self.frames, Latest | Quantized):
            raise TypeError(f"frames must be Latest() or Quantized(), got {self.frames!r}")

    @property
    def depth(self) -> int:
        """As many as `k`."""
        return self.k

    @property
    def codec(self) -> "Quantized | None":
        """That of the frames."""
        return self.frames.codec


@dataclass(frozen=True)
class ActionBuffer:
    """The last `k` entries of the observation, a tuple: the last `k` actions, newest last; none is stored.

    Observations of real-time environments end so. The newest is the action that led to the observation. At a
    reset all are the default action.

    Args:
        k: Actions.

    Raises:
        ValueError: `k` is below 1.
    """

    k: int

    def __post_init__(self) -> None:
        _check_k(self.k)


def _check_k(k: int) -> None:
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
