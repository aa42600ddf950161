"""TrainingAgent: what learns."""

from abc import ABC, abstractmethod
from collections.abc import MutableMapping
from typing import Any

from tmrl.actor import ActorModule


class TrainingAgent(ABC):
    """An algorithm: batches in, policies out. Subclasses implement `train` and `get_actor`.

    Args:
        observation_space: What observations look like.
        action_space: What actions look like.
        device: Where to compute; batches are there already.

    Attributes:
        observation_space: As given.
        action_space: As given.
        device: As given.
    """

    def __init__(self, observation_space: Any, action_space: Any, device: Any) -> None:
        self.observation_space = observation_space
        self.action_space = action_space
        self.device = device

    @abstractmethod
    def train(self, batch: Any) -> MutableMapping[str, Any]:
        """Takes one training step.

        Args:
            batch: `(prev_obs, new_act, rew, new_obs, terminated, truncated)`.

        Returns:
            Metrics by name, numbers or tensors of one element; the training loop adds its own to the dict.
        """

    @abstractmethod
    def get_actor(self) -> ActorModule:
        """The policy as it is now; the training loop only reads it."""
