"""The last observations of an episode, stacked for a policy that must see motion.

The worker stacks what its policy sees, and the memory stacks what it hands out. In between, each observation
travels, and is stored, once. The policy itself is without memory: a new one may take over within an episode.
"""

from collections import deque
from typing import Any

import numpy as np
import optree
from gymnasium.spaces import Space
from gymnasium.vector.utils import batch_space

from tmrl.stamping import owned


class Frames:
    """The last observations of an episode; its first stands in for those before it.

    Args:
        length: How many.

    Raises:
        ValueError: It is below 1.
    """

    def __init__(self, length: int) -> None:
        if length < 1:
            raise ValueError(f"frame_stack must be at least 1, got {length}")
        self._length = length
        self._frames: deque[Any] = deque(maxlen=length)

    def begin(self, obs: Any) -> None:
        """Begins an episode; the observation is copied."""
        if self._length > 1:
            self._frames.extend([owned(obs)] * self._length)

    def add(self, obs: Any) -> None:
        """Adds the next observation of the episode, a copy."""
        if self._length > 1:
            self._frames.append(owned(obs))

    def seen(self, obs: Any) -> Any:
        """What the policy sees: the nest, each leaf `(length, ...)`, oldest first; for 1, `obs` itself."""
        return obs if self._length == 1 else optree.tree_map(lambda *leaves: np.stack(leaves), *self._frames)


def stacked_space(space: Space[Any], length: int) -> Space[Any]:
    """The space of what a policy sees of observations of a space; of a stack of 1 the space itself."""
    return space if length == 1 else batch_space(space, length)
