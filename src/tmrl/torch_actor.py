"""TorchActorModule: a policy that is a torch network; its documented home is `tmrl.actor`."""

import copy
import os
from pathlib import Path
from typing import Any, Self

import safetensors.torch
import torch

from tmrl.actor import ActorModule
from tmrl.collate import collate_torch
from tmrl.errors import PolicyError


class TorchActorModule(ActorModule, torch.nn.Module):
    """A policy that is an `nn.Module`. Subclasses implement `act` for a batch of one.

    Files hold the `state_dict` alone, as safetensors if their name ends in `.safetensors`, else in torch's
    format, read with `weights_only=True`. Nothing in a policy file is ever run.

    Args:
        observation_space: What the environment's observations look like.
        action_space: What its actions look like.
        device: Where observations are put; `to_device` moves the network too.

    Attributes:
        device: Where the policy computes.
    """

    def __init__(self, observation_space: Any, action_space: Any, device: Any = "cpu") -> None:
        super().__init__(observation_space, action_space)
        self.device = device

    def save(self, path: str | Path) -> None:
        """Writes the `state_dict`; a reader sees the old file or the new one, never a half."""
        target = Path(path)
        draft = target.with_name(f"{target.name}.{os.getpid()}.draft")
        if target.suffix == ".safetensors":
            safetensors.torch.save_model(self, str(draft))
        else:
            torch.save(self.state_dict(), draft)
        draft.replace(target)

    def load(self, path: str | Path, device: Any, *, allow_pickle: bool = False) -> Self:  # noqa: ARG002
        """Reads a `state_dict` into this network and moves it to `device`.

        Args:
            path: The file.
            device: Where the policy shall compute.
            allow_pickle: Not needed: these files hold tensors only.

        Returns:
            `self`.

        Raises:
            PolicyError: The file cannot be read, holds more than tensors, or belongs to another network. The
                network is as it was.
        """
        before = copy.deepcopy(self.state_dict())
        try:
            if Path(path).suffix == ".safetensors":
                safetensors.torch.load_model(self, str(path))
            else:
                self.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:
            self.load_state_dict(before)  # torch has copied what fits
            raise PolicyError(
                f"{path} must hold the weights of a {type(self).__name__}, as its save() writes them: {error}"
            ) from error
        return self.to_device(device)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Moves or casts the network as `nn.Module.to` does, and notes the device."""
        super().to(*args, **kwargs)
        place = kwargs.get("device", args[0] if args else None)
        if isinstance(place, torch.Tensor):
            place = place.device
        if isinstance(place, (str, int, torch.device)):
            self.device = place
        return self

    def to_device(self, device: Any) -> Self:
        """Moves the network to a device and returns it."""
        return self.to(device)

    def act_(self, obs: Any, test: bool = False) -> Any:
        """Makes a batch of one of an observation, on the policy's device, and acts without gradients."""
        with torch.no_grad():
            return self.act(collate_torch([obs], device=self.device), test=test)
