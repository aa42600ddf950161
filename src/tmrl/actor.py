"""The policy as a worker sees it.

`ActorModule` needs no torch, so that a robot whose policy is not a network runs without it.
`TorchActorModule` is at home in `tmrl.torch_actor` and is loaded when it is first used.
"""

import pickle
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tmrl.errors import PolicyError
from tmrl.lazy import lazy_exports

if TYPE_CHECKING:
    from tmrl.torch_actor import TorchActorModule

__all__ = ["ActorModule", "TorchActorModule"]


class ActorModule(ABC):
    """A policy: observations in, actions out. Subclasses implement `act`.

    Args:
        observation_space: What the environment's observations look like.
        action_space: What its actions look like.

    Attributes:
        observation_space: As given.
        action_space: As given.
    """

    def __init__(self, observation_space: Any, action_space: Any) -> None:
        super().__init__()
        self.observation_space = observation_space
        self.action_space = action_space

    def save(self, path: str | Path) -> None:
        """Writes the policy to a file, here as a pickle."""
        Path(path).write_bytes(pickle.dumps(self))

    def load(self, path: str | Path, device: Any, *, allow_pickle: bool = False) -> "ActorModule":
        """Reads the policy back from what `save` wrote.

        Args:
            path: The file.
            device: Where the policy shall compute.
            allow_pickle: Unpickles the file, which runs whatever the file says; only for files you trust.

        Returns:
            The policy read; `self` is as it was.

        Raises:
            PolicyError: `allow_pickle` is not given, or the file holds no policy.
        """
        if not allow_pickle:
            raise PolicyError(
                f"{path} would have to be unpickled, which runs whatever the file says; if you trust it, "
                f"pass allow_pickle=True, else override save and load of {type(self).__name__}"
            )
        actor = _unpickle(Path(path))
        if not isinstance(actor, ActorModule):
            raise PolicyError(f"{path} must hold a pickled ActorModule, found {type(actor).__name__}")
        return actor.to_device(device)

    def to_device(self, device: Any) -> "ActorModule":  # noqa: ARG002 - for subclasses that have one
        """Moves the policy to a device; returns the policy to use from now on, here `self`."""
        return self

    @abstractmethod
    def act(self, obs: Any, test: bool = False) -> Any:
        """Computes an action.

        Args:
            obs: The observation, as `act_` prepared it.
            test: Whether to act as in deployment, without exploration.

        Returns:
            The action as the environment takes it, usually a NumPy array.
        """

    def act_(self, obs: Any, test: bool = False) -> Any:
        """Prepares an observation of the environment for `act`, here not at all, and calls it."""
        return self.act(obs, test=test)


def _unpickle(path: Path) -> Any:
    try:
        return pickle.loads(path.read_bytes())  # noqa: S301 - the caller asked for it by name
    except Exception as error:
        raise PolicyError(f"{path} cannot be unpickled: {error}; save the policy anew") from error


__getattr__, _ = lazy_exports(__name__, {"TorchActorModule": "tmrl.torch_actor"})
