"""What the training steps of all agents share: what they read in a batch, Bellman's equation, one descent."""

from typing import Any

import torch
from torch import Tensor, nn


def discount_of(batch: Any, gamma: float) -> Any:
    """By what to multiply the value of `new_obs`: the batch's `discounts` `(B,)`, or `gamma` if it has none.

    A batch of n-step returns has them: `gamma ** n` for the n steps that each reward really sums up.
    """
    discounts = getattr(batch, "discounts", None)
    return gamma if discounts is None else discounts


def weights_of(batch: Any) -> Tensor | None:
    """The batch's importance weights `(B,)`; None, which stands for ones, if it has none."""
    return getattr(batch, "weights", None)


def bootstrapped(rew: Tensor, discount: Any, terminated: Tensor, value: Tensor) -> Tensor:
    """Bellman targets `r + discount (1 - terminated) V(s')`.

    An episode that was cut short (truncated) still has a future: only termination ends the sum.

    Args:
        rew: `(B,)` float32.
        discount: As `discount_of` gives it.
        terminated: `(B,)` float32, 1 where the episode terminated.
        value: `(B,)` values of `new_obs`.
    """
    return rew + discount * (1.0 - terminated) * value


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Takes one step down the gradient of a loss."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@torch.no_grad()
def track(target: nn.Module, source: nn.Module, tau: float) -> None:
    """Moves the parameters of `target` by the share `tau` towards those of `source`; 1 copies them."""
    for follower, leader in zip(target.parameters(), source.parameters(), strict=True):
        follower.lerp_(leader, tau)


def check(name: str, value: float, is_valid: bool, rule: str) -> None:
    """Refuses a hyperparameter that is out of range.

    Raises:
        ValueError: It is.
    """
    if not is_valid:
        raise ValueError(f"{name} must be {rule}, got {value}")
