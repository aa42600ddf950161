"""What an agent's attributes hold: taken out as a nest of plain parts, and put back in place.

Networks, optimisers and random generators are put back into the objects that are there, and so are tensors:
an optimiser goes on with the parameters that it was made for, and whoever shares a tensor still shares it.
"""

import random
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from gymnasium.spaces import Space

_GENERATORS: dict[type[Any], tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]] = {
    np.random.Generator: (
        lambda generator: generator.bit_generator.state,
        lambda generator, state: setattr(generator.bit_generator, "state", state),
    ),
    np.random.RandomState: (
        lambda generator: generator.get_state(legacy=False),
        lambda generator, state: generator.set_state(state),
    ),
    random.Random: (
        lambda generator: generator.getstate(),
        lambda generator, state: generator.setstate(state),
    ),
    torch.Generator: (
        lambda generator: generator.get_state(),
        lambda generator, state: generator.set_state(state),
    ),
}
"""Kinds of random generators: how their state is read, and how it is set."""

STATE = "state_dict"
"""The one key of the dict that stands for an object with a state of its own."""


def collect(value: Any) -> Any:
    """What one value holds: `{"state_dict": ...}` for networks, optimisers and generators, else itself.

    Containers are looked into. Nothing is copied.
    """
    if _has_state_dict(value):
        return {STATE: value.state_dict()}
    if type(value) in _GENERATORS:
        return {STATE: _GENERATORS[type(value)][0](value)}
    if isinstance(value, dict):
        mapping = cast("dict[Any, Any]", value)
        if any(map(_holds_state, mapping.values())):
            return {key: collect(part) for key, part in mapping.items()}
    elif isinstance(value, list | tuple | deque):
        parts = cast("list[Any]", value)
        if any(map(_holds_state, parts)):
            return [collect(part) for part in parts]
    return value


def is_made_anew(value: Any) -> bool:
    """Whether a value is of a kind that never changes and that every constructor makes anew."""
    return isinstance(value, Space | torch.device | torch.dtype)


def put_back(current: Any, saved: Any, place: str) -> Any:
    """Puts what `collect` took out into the value that a new agent has.

    Args:
        current: The new agent's value.
        saved: What was collected.
        place: Name of the value, for messages.

    Returns:
        What the attribute shall be: `current`, changed in place, or a value in its stead.

    Raises:
        ValueError: The two do not fit.
    """
    if _has_state_dict(current) or type(current) in _GENERATORS:
        if not _is_state(saved):
            raise ValueError(f"{place} is a {type(current).__name__}, but was saved as {saved!r:.80}")
        if _has_state_dict(current):
            current.load_state_dict(saved[STATE])
        else:
            _GENERATORS[type(current)][1](current, saved[STATE])
        return current
    if isinstance(current, torch.Tensor):
        return _tensor(current, saved, place)
    if not _holds_state(current):
        _check_plain(saved, place)
        return saved
    if len(current) != len(saved):
        raise ValueError(f"{place} has {len(current)} parts, but was saved with {len(saved)}")
    if isinstance(current, tuple):
        parts = [put_back(part, saved[i], f"{place}[{i}]") for i, part in enumerate(current)]
        return cast("Any", current)._make(parts) if hasattr(current, "_make") else tuple(parts)
    for key in current if isinstance(current, dict) else range(len(current)):
        current[key] = put_back(current[key], saved[key], f"{place}[{key!r}]")
    return current


def _tensor(current: torch.Tensor, saved: Any, place: str) -> Any:
    if isinstance(saved, torch.Tensor) and (saved.shape, saved.dtype) == (current.shape, current.dtype):
        with torch.no_grad():
            current.copy_(saved)
        return current
    if current.requires_grad:
        shape = tuple(getattr(saved, "shape", ()))
        raise ValueError(f"{place} has the shape {tuple(current.shape)}, but was saved with {shape}")
    return saved


def _check_plain(saved: Any, place: str) -> None:
    """Checks that what was saved needs no object of a new agent to be put back into."""
    if _is_state(saved):
        raise ValueError(
            f"{place} was saved as an object with a state, but a new agent has none there; make it in the "
            "constructor, or override load_state_dict"
        )
    if isinstance(saved, dict | list | tuple | deque):
        parts = cast("dict[Any, Any]", saved).values() if isinstance(saved, dict) else saved
        for part in cast("list[Any]", parts):
            _check_plain(part, place)


def _is_state(saved: Any) -> bool:
    return isinstance(saved, dict) and list(cast("dict[Any, Any]", saved)) == [STATE]


def _has_state_dict(value: Any) -> bool:
    return callable(getattr(value, "state_dict", None)) and callable(getattr(value, "load_state_dict", None))


def _holds_state(value: Any) -> bool:
    """Whether a value is, or contains, something that is put back in place."""
    if isinstance(value, dict):
        return any(map(_holds_state, cast("dict[Any, Any]", value).values()))
    if isinstance(value, list | tuple | deque):
        return any(map(_holds_state, cast("list[Any]", value)))
    is_parameter = isinstance(value, torch.Tensor) and value.requires_grad
    return is_parameter or _has_state_dict(value) or type(value) in _GENERATORS
