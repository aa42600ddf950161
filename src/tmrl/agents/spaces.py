"""What agents see of an environment's spaces: flat vectors, images, a unit box, numbered actions."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from tmrl.nest import flatten, leaf_names


def flat_observation_size(space: spaces.Space[Any]) -> int:
    """Length of the vector that `flat_observation` makes of an observation.

    Raises:
        ValueError: A leaf of the space is an image, or no box of numbers; the message names it.
    """
    leaves, treespec = flatten(_nest_of(space))
    names = leaf_names("observation", treespec)
    return sum(_box_size(name, leaf) for name, leaf in zip(names, leaves, strict=True))


def flat_observation(nest: Any) -> Tensor:
    """Flattens and concatenates a batch of nested observations to `(B, size)` float32.

    Dicts are taken in the order of their sorted keys. A single float32 leaf of vectors is not copied.
    """
    if isinstance(nest, Tensor):
        return _flat(nest)
    leaves, _ = flatten(nest)
    return torch.cat([_flat(leaf) for leaf in leaves], dim=-1)


def is_image(space: spaces.Space[Any]) -> bool:
    """Whether observations are images: a Box of uint8 with at least height and width."""
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) > 1


def discrete(space: spaces.Space[Any]) -> spaces.Discrete:
    """The action space, if its actions are numbered.

    Raises:
        ValueError: They are not.
    """
    if not isinstance(space, spaces.Discrete):
        raise ValueError(  # noqa: TRY004 - a space is an argument's value
            f"the action space must be Discrete for DQN, got {space}; take an environment with numbered "
            "actions, or an agent for continuous ones, such as SAC"
        )
    return space


class UnitBox(nn.Module):
    """Maps the actions of a bounded box to the box [-1, 1] and back, by one affine map per component.

    Args:
        space: The action space.

    Raises:
        ValueError: The space is no box of floating-point numbers with finite bounds apart.
    """

    centre: Tensor
    half_range: Tensor

    def __init__(self, space: spaces.Space[Any]) -> None:
        super().__init__()
        self.space = _bounded_box(space)
        low, high = (bound.astype(np.float64).ravel() for bound in (self.space.low, self.space.high))
        self.size = low.size
        self.register_buffer("centre", torch.from_numpy((high + low) / 2).float(), persistent=False)
        self.register_buffer("half_range", torch.from_numpy((high - low) / 2).float(), persistent=False)

    def from_action(self, act: Tensor) -> Tensor:
        """Maps a batch of the environment's actions `(B, ...)` to `(B, size)` in [-1, 1], float32."""
        return (_flat(act) - self.centre) / self.half_range

    def to_action(self, unit: Tensor) -> NDArray[Any]:
        """Maps one point `(size,)` of the unit box to an action: the space's shape, dtype and bounds hold."""
        act = (self.centre + self.half_range * unit).cpu().numpy().astype(self.space.dtype)
        return act.reshape(self.space.shape).clip(self.space.low, self.space.high)


def _flat(leaf: Tensor) -> Tensor:
    return leaf.reshape(len(leaf), -1).float()


def _nest_of(space: spaces.Space[Any]) -> Any:
    match space:
        case spaces.Dict():
            return {key: _nest_of(part) for key, part in space.spaces.items()}
        case spaces.Tuple():
            return tuple(_nest_of(part) for part in space.spaces)
        case _:
            return space


def _box_size(name: str, space: spaces.Space[Any]) -> int:
    if not isinstance(space, spaces.Box):
        raise ValueError(  # noqa: TRY004 - a space is an argument's value
            f"{name} must be a Box for this agent, got {space}; make it one with "
            "gymnasium.wrappers.FlattenObservation"
        )
    if is_image(space):
        raise ValueError(
            f"{name} must be a vector for this agent, got an image {space.shape} of uint8; wrap the "
            "environment in an encoder that makes vectors, or write a TrainingAgent with convolutions"
        )
    return int(np.prod(space.shape))


def _bounded_box(space: spaces.Space[Any]) -> spaces.Box:
    if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
        raise ValueError(
            f"the action space must be a Box of floating-point numbers for SAC, got {space}; take an "
            "environment with continuous actions, or an agent for discrete ones"
        )
    if not space.is_bounded("both"):
        raise ValueError(
            f"the action space must have finite bounds for SAC, got {space}; bound it with "
            "gymnasium.wrappers.RescaleAction or a wrapper of your own"
        )
    if not np.all(space.low < space.high):
        raise ValueError(
            f"every action component must have its low below its high, got {space}; drop the fixed components"
        )
    return space
