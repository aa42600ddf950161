"""Soft actor-critic with a learned temperature: Haarnoja et al. 2018, arXiv 1812.05905.

`SACAgent.train` is one gradient step of the paper's algorithm 1: critics, policy, temperature, targets.
Equation numbers below are the paper's. The agent sees actions in the unit box, so that the target entropy
`-dim(A)` means the same whatever the bounds of the environment's actions are.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from gymnasium.spaces import Space
from torch import Tensor, nn

from tmrl.actor import TorchActorModule
from tmrl.agents.networks import EnsembleCritic, SquashedGaussian
from tmrl.agents.spaces import UnitBox, flat_observation, flat_observation_size
from tmrl.training.agent import TrainingAgent


class SquashedGaussianActor(TorchActorModule):
    """A tanh-squashed Gaussian policy over flat vectors, scaled to the bounds of the action space.

    Args:
        observation_space: Any nest of Dict and Tuple with a Box of vectors as leaves.
        action_space: A bounded Box.
        device: Where the policy computes.
        hidden: Widths of the hidden layers.

    Raises:
        ValueError: A space does not suit; the message says why and what would.
    """

    def __init__(
        self,
        observation_space: Space[Any],
        action_space: Space[Any],
        device: Any = "cpu",
        hidden: Sequence[int] = (256, 256),
    ) -> None:
        super().__init__(observation_space, action_space, device)
        self.unit_box = UnitBox(action_space)
        self.policy = SquashedGaussian(flat_observation_size(observation_space), self.unit_box.size, hidden)
        self.to(device)

    def act(self, obs: Any, test: bool = False) -> Any:
        """Acts on a collated batch of one: the mode if `test`, else a draw."""
        flat = flat_observation(obs)
        unit = self.policy.mode(flat) if test else self.policy.sample(flat)[0]
        return self.unit_box.to_action(unit[0])


class SACAgent(TrainingAgent):
    """Trains a `SquashedGaussianActor` by soft actor-critic.

    Network weights and noise come from torch's global generator: seed it with `torch.manual_seed`.

    Args:
        observation_space: Any nest of Dict and Tuple with a Box of vectors as leaves.
        action_space: A bounded Box.
        device: Where networks and batches are.
        gamma: Discount factor of a step, in [0, 1].
        tau: Share of the critics that goes into their targets at each update, in (0, 1].
        lr: Learning rate of the critics, the policy and the temperature (Adam).
        hidden: Widths of the hidden layers of all networks.
        initial_temperature: Temperature at the start, above 0.
        target_entropy: Entropy of an action to hold, in nats; None stands for minus its number of components.

    Raises:
        ValueError: A space or a number does not suit; the message says why and what would.
    """

    def __init__(
        self,
        observation_space: Space[Any],
        action_space: Space[Any],
        device: Any = "cpu",
        *,
        gamma: float = 0.99,
        tau: float = 0.005,
        lr: float = 3e-4,
        hidden: Sequence[int] = (256, 256),
        initial_temperature: float = 1.0,
        target_entropy: float | None = None,
    ) -> None:
        super().__init__(observation_space=observation_space, action_space=action_space, device=device)
        _check("gamma", gamma, 0.0 <= gamma <= 1.0, "in [0, 1]")
        _check("tau", tau, 0.0 < tau <= 1.0, "in (0, 1]")
        _check("lr", lr, lr > 0.0, "above 0")
        _check("initial_temperature", initial_temperature, initial_temperature > 0.0, "above 0")
        self.gamma, self.tau = gamma, tau
        self.actor = SquashedGaussianActor(observation_space, action_space, device, hidden)
        act_size = self.actor.unit_box.size
        obs_size = flat_observation_size(observation_space)
        self.critics = EnsembleCritic(obs_size, act_size, hidden).to(device)
        self.target_critics = deepcopy(self.critics).requires_grad_(False)
        self.log_temperature = torch.tensor(initial_temperature, device=device).log().requires_grad_()
        self.target_entropy = -float(act_size) if target_entropy is None else target_entropy
        self._critic_adam = torch.optim.Adam(self.critics.parameters(), lr, fused=True)
        self._policy_adam = torch.optim.Adam(self.actor.policy.parameters(), lr, fused=True)
        self._temperature_adam = torch.optim.Adam([self.log_temperature], lr, fused=True)

    def get_actor(self) -> SquashedGaussianActor:
        """The actor in training, not a copy."""
        return self.actor

    def train(self, batch: Any) -> dict[str, Any]:
        """Makes one gradient step of algorithm 1.

        Args:
            batch: A tuple of six as a memory hands it out, on the agent's device. If it has importance
                `weights` of shape `(B,)`, they weigh the critics' loss.

        Returns:
            Losses and state by name, tensors of one element, so that the device is not waited for.
        """
        prev_obs, new_act, rew, new_obs, terminated, _ = batch
        obs, act = flat_observation(prev_obs), self.actor.unit_box.from_action(new_act)
        target = self.targets(rew, flat_observation(new_obs), terminated)
        temperature = self.log_temperature.detach().exp()

        values = self.critics(obs, act)
        critic_loss = residual_loss(values, target, getattr(batch, "weights", None))
        _descend(self._critic_adam, critic_loss)

        unit, log_prob = self.actor.policy.sample(obs)
        with _frozen(self.critics):
            policy_loss = (temperature * log_prob - self.critics(obs, unit).amin(0)).mean()
        _descend(self._policy_adam, policy_loss)

        _descend(self._temperature_adam, self.temperature_loss(log_prob))
        self.track_targets()
        return {
            "loss_critic": critic_loss.detach(),
            "loss_actor": policy_loss.detach(),
            "q_value": values.detach().mean(),
            "entropy": -log_prob.detach().mean(),
            "temperature": temperature,
        }

    @torch.no_grad()
    def targets(self, rew: Tensor, new_obs: Tensor, terminated: Tensor) -> Tensor:
        """Soft Bellman targets `r + gamma (1 - terminated) V(s')`, with V of equation 3, for equation 5.

        V takes the smaller target critic. An episode that was cut short (truncated) still has a future: only
        termination ends the sum.

        Args:
            rew: `(B,)` float32.
            new_obs: `(B, obs_size)` flat observations.
            terminated: `(B,)` float32, 1 where the episode terminated.

        Returns:
            `(B,)` targets, without gradient.
        """
        act, log_prob = self.actor.policy.sample(new_obs)
        value = self.target_critics(new_obs, act).amin(0) - self.log_temperature.exp() * log_prob
        return rew + self.gamma * (1.0 - terminated) * value

    def temperature_loss(self, log_prob: Tensor) -> Tensor:
        """Equation 18, `J(alpha) = E[-alpha (log pi(a|s) + target_entropy)]`; alpha is learned by its log."""
        return -self.log_temperature.exp() * (log_prob.detach() + self.target_entropy).mean()

    @torch.no_grad()
    def track_targets(self) -> None:
        """Moves the target critics by `tau` towards the critics (Polyak averaging)."""
        pairs = zip(self.target_critics.parameters(), self.critics.parameters(), strict=True)
        for target, source in pairs:
            target.lerp_(source, self.tau)


def residual_loss(values: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Equation 5, `E[(Q(s, a) - target)^2 / 2]`, summed over the critics.

    Args:
        values: `(members, B)` action values.
        target: `(B,)` targets.
        weights: `(B,)` importance weights of the samples; None stands for ones.
    """
    squares = 0.5 * (values - target).square()
    return (squares if weights is None else squares * weights).mean(dim=-1).sum()


def _descend(adam: torch.optim.Adam, loss: Tensor) -> None:
    adam.zero_grad()
    loss.backward()
    adam.step()


@contextmanager
def _frozen(module: nn.Module) -> Generator[None]:
    """Lets gradients pass through a module to its inputs, and spares those of its weights."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)


def _check(name: str, value: float, is_valid: bool, rule: str) -> None:
    if not is_valid:
        raise ValueError(f"{name} must be {rule}, got {value}")
