"""Gymnasium spaces as JSON, so that a dataset on disk says what its observations and actions mean.

`{"Box": {"dtype": "float32", "shape": [3], "low": -1.0, "high": [1.0, 1.0, "inf"]}}`, and so on for the other
spaces whose samples have a fixed size. Bounds that are all the same are one number; what is not finite is
text, because JSON has no such numbers. Reading makes nothing but spaces.
"""

import math
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from tmrl.errors import DatasetError
from tmrl.schema_json import DTYPES, MAX_DEPTH

if TYPE_CHECKING:
    from tmrl.datasets.dataset import About

MAX_ELEMENTS = 1 << 24


def environment_to_json(about: "About") -> dict[str, Any]:
    """The environment of a dataset and its spaces, as what `json.dumps` takes."""
    obs, act = about.observation_space, about.action_space
    return {
        "id": about.environment,
        "observation_space": None if obs is None else space_to_json(obs),
        "action_space": None if act is None else space_to_json(act),
    }


def environment_from_json(document: Any) -> dict[str, Any]:
    """What `environment_to_json` wrote, as arguments of `About`.

    Raises:
        DatasetError: It is no such document.
    """
    if not isinstance(document, dict) or not isinstance(document.get("id"), str | None):
        raise DatasetError(f"an environment must be a JSON object with an id, got {document!r}")
    spaces = {
        name: None if document.get(name) is None else space_from_json(document[name])
        for name in ("observation_space", "action_space")
    }
    return {"environment": document.get("id"), **spaces}


def space_to_json(space: Any) -> dict[str, Any]:
    """A space as what `json.dumps` takes.

    Raises:
        DatasetError: Its samples have no fixed size.
    """
    from gymnasium import spaces

    match space:
        case spaces.Box():
            bounds = {"low": _numbers_to_json(space.low), "high": _numbers_to_json(space.high)}
            return {"Box": {"dtype": str(space.dtype), "shape": list(space.shape), **bounds}}
        case spaces.Discrete():
            return {"Discrete": {"n": int(space.n), "start": int(space.start), "dtype": str(space.dtype)}}
        case spaces.MultiDiscrete():
            numbers = {"nvec": space.nvec.tolist(), "start": space.start.tolist()}
            return {"MultiDiscrete": {**numbers, "dtype": str(space.dtype)}}
        case spaces.MultiBinary():
            return {"MultiBinary": {"n": space.n if isinstance(space.n, int) else list(space.shape)}}
        case spaces.Dict():
            return {"Dict": [[key, space_to_json(part)] for key, part in space.spaces.items()]}
        case spaces.Tuple():
            return {"Tuple": [space_to_json(part) for part in space.spaces]}
        case _:
            raise DatasetError(
                "a space must be made of Box, Discrete, MultiDiscrete, MultiBinary, Dict and Tuple, got "
                f"{space}; leave it out: the rows say what they look like without it"
            )


def space_from_json(document: Any) -> Any:
    """The space that `space_to_json` wrote.

    Raises:
        DatasetError: It is no such document, or absurdly deep or large.
    """
    try:
        return _Reader().read(document)
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError, OverflowError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"a space must be what this package writes, but reading it: {error!r}") from error


class _Reader:
    """Makes spaces of at most `MAX_ELEMENTS` numbers in all, because each of them has bounds in memory."""

    def __init__(self) -> None:
        self._left = MAX_ELEMENTS

    def read(self, document: Any, depth: int = 0) -> Any:
        from gymnasium import spaces

        if depth > MAX_DEPTH:
            raise DatasetError(f"a space must be at most {MAX_DEPTH} deep")
        ((kind, fields),) = document.items()
        match kind:
            case "Box":
                shape, dtype = self._shape(fields["shape"]), _dtype(fields["dtype"])
                low, high = (_numbers_from_json(fields[bound], shape, dtype) for bound in ("low", "high"))
                return spaces.Box(low, high, shape, cast("Any", dtype))
            case "Discrete":
                n, start = int(fields["n"]), int(fields["start"])
                return spaces.Discrete(n, start=start, **_unusual(fields["dtype"]))
            case "MultiDiscrete":
                dtype = _dtype(fields["dtype"])
                nvec, start = (np.array(fields[name], dtype) for name in ("nvec", "start"))
                return spaces.MultiDiscrete(nvec, cast("Any", dtype.type), start=start)
            case "MultiBinary":
                n = fields["n"]
                shape = self._shape([n] if isinstance(n, int) else n)
                return spaces.MultiBinary(n if isinstance(n, int) else shape)
            case "Dict":
                # A list keeps its order, a dict would be sorted.
                return spaces.Dict([(str(key), self.read(part, depth + 1)) for key, part in fields])
            case "Tuple":
                return spaces.Tuple([self.read(part, depth + 1) for part in fields])
            case _:
                raise DatasetError(f"a space must be of a known kind, got {kind!r}")

    def _shape(self, lengths: Any) -> tuple[int, ...]:
        is_shape = all(type(length) is int and length >= 0 for length in lengths)
        self._left -= math.prod(lengths) if is_shape else 0
        if not is_shape or self._left < 0:
            raise DatasetError(f"a space must have a sensible shape, got {lengths!r}")
        return tuple(lengths)


def _unusual(dtype: str) -> dict[str, Any]:
    # Old versions of Gymnasium know no other dtype of this space, nor the argument.
    return {} if dtype == "int64" else {"dtype": _dtype(dtype).type}


def _dtype(name: Any) -> np.dtype[Any]:
    if name not in DTYPES or name == "bfloat16":
        raise DatasetError(f"a space must have a known dtype, got {name!r}")
    return np.dtype(name)


def _numbers_to_json(array: NDArray[Any]) -> Any:
    flat = [number if math.isfinite(number) else str(number) for number in array.ravel().tolist()]
    return flat[0] if len(set(flat)) == 1 else flat


def _numbers_from_json(numbers: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    if not isinstance(numbers, list):
        return np.full(shape, float(numbers) if isinstance(numbers, str) else numbers, dtype)
    flat = [float(number) if isinstance(number, str) else number for number in numbers]
    return np.array(flat, dtype).reshape(shape)
