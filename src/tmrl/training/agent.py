"""TrainingAgent: what learns."""

from abc import ABC, abstractmethod
from collections.abc import Collection, MutableMapping
from typing import Any, ClassVar

from tmrl.actor import ActorModule


class TrainingAgent(ABC):
    """An algorithm: batches in, policies out. Subclasses implement `train` and `get_actor`.

    A checkpoint holds what `state_dict` returns. By default that is every attribute; those that need not be
    saved, such as an environment or a socket, are named in `not_saved`.

    Args:
        observation_space: What observations look like.
        action_space: What actions look like.
        device: Where to compute; batches are there already.

    Attributes:
        observation_space: As given.
        action_space: As given.
        device: As given.
    """

    not_saved: ClassVar[Collection[str]] = ()
    """Names of attributes that a checkpoint leaves out, because the constructor makes them as they were."""
    td_errors: Any = None
    """`(B,)` absolute errors of the last batch's values, in its order: the priorities that the training loop
    gives to a memory that takes them. None if the agent has none; a checkpoint leaves them out."""

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

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on as if nothing had happened.

        Returns:
            The attributes by name, but for the spaces, devices, `td_errors` and `not_saved`.
            `{"state_dict": ...}` stands for networks, optimisers, whatever else has a `state_dict()`, and
            random generators, also within lists, tuples and dicts. Nothing is copied.
        """
        from tmrl.training.attributes import collect, is_made_anew

        return {
            name: collect(value)
            for name, value in vars(self).items()
            if name not in {"device", "td_errors", *self.not_saved} and not is_made_anew(value)
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` returned.

        Networks, optimisers, tensors and random generators are changed in place. What `state` lacks stays.

        Args:
            state: As `state_dict` returned it, for an agent that was made by the same constructor.

        Raises:
            ValueError: The constructor makes no attribute of a name in `state`, or one of another shape.
        """
        from tmrl.training.attributes import put_back

        unknown = sorted(state.keys() - vars(self).keys())
        if unknown:
            raise ValueError(
                f"{type(self).__name__} must make every attribute in its constructor, but {unknown[0]!r} was "
                "saved and a new agent has none; set it there, or override load_state_dict"
            )
        for name, saved in state.items():
            setattr(self, name, put_back(getattr(self, name), saved, name))
