"""Soft actor-critic with a learned temperature: Haarnoja et al. 2018, arXiv 1812.05905.

`SACAgent.train` is one gradient step of the paper's algorithm 1: critics, policy, temperature, targets.
Equation numbers below are the paper's. The agent sees actions in the unit box, so that the target entropy
`-dim(A)` means the same whatever the bounds of the environment's actions are.

What later papers changed about the critics are its options: larger ensembles (REDQ, `tmrl.agents.redq`), and
layer normalisation (RLPD: Ball et al. 2023, arXiv 2302.02948, which also draws half of each batch from
demonstrations, as the memory's `Mixture` does).
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, Literal

import torch
from gymnasium.spaces import Space
from torch import Tensor, nn

from tmrl.actor import TorchActorModule
from tmrl.agents.networks import EnsembleCritic, SquashedGaussian
from tmrl.agents.spaces import UnitBox, flat_observation, flat_observation_size
from tmrl.agents.steps import bootstrapped, check, descend, discount_of, track, weights_of
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
        gamma: Discount factor of a step, in [0, 1], for batches that have no `discounts`.
        tau: Share of the critics that goes into their targets at each update, in (0, 1].
        lr: Learning rate of the critics, the policy and the temperature (Adam).
        hidden: Widths of the hidden layers of all networks.
        initial_temperature: Temperature at the start, above 0.
        target_entropy: Entropy of an action to hold, in nats; None stands for minus its number of components.
        n_critics: Critics in the ensemble.
        n_target: Critics, drawn anew at each update, whose smallest value makes the targets; None for all.
        policy_value: Which of the critics' values of an action the policy raises: the smallest or the mean.
        policy_delay: Updates of the critics for each of the policy and the temperature.
        layer_norm: Whether the critics' hidden layers are normalised, as RLPD has it.

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
        n_critics: int = 2,
        n_target: int | None = None,
        policy_value: Literal["min", "mean"] = "min",
        policy_delay: int = 1,
        layer_norm: bool = False,
    ) -> None:
        super().__init__(observation_space=observation_space, action_space=action_space, device=device)
        check("gamma", gamma, 0.0 <= gamma <= 1.0, "in [0, 1]")
        check("tau", tau, 0.0 < tau <= 1.0, "in (0, 1]")
        check("lr", lr, lr > 0.0, "above 0")
        check("initial_temperature", initial_temperature, initial_temperature > 0.0, "above 0")
        check("n_critics", n_critics, n_critics >= 1, "at least 1")
        n_target = n_critics if n_target is None else n_target
        check("n_target", n_target, 1 <= n_target <= n_critics, f"in 1 to n_critics={n_critics}")
        check("policy_delay", policy_delay, policy_delay >= 1, "at least 1")
        self.gamma, self.tau, self.n_target = gamma, tau, n_target
        self.policy_value, self.policy_delay = policy_value, policy_delay
        self.updates = 0
        self.actor = SquashedGaussianActor(observation_space, action_space, device, hidden)
        act_size = self.actor.unit_box.size
        obs_size = flat_observation_size(observation_space)
        self.critics = EnsembleCritic(obs_size, act_size, hidden, n_critics, layer_norm).to(device)
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
                `weights` of shape `(B,)`, they weigh the critics' loss; if it has `discounts`, they stand in
                for `gamma`.

        Returns:
            Losses and state by name, tensors of one element, so that the device is not waited for. Those of
            the policy are missing where it was not its turn.
        """
        prev_obs, new_act, rew, new_obs, terminated, _ = batch
        obs, act = flat_observation(prev_obs), self.actor.unit_box.from_action(new_act)
        discount = discount_of(batch, self.gamma)
        target = self.targets(rew, flat_observation(new_obs), terminated, discount)

        values = self.critics(obs, act)
        critic_loss = residual_loss(values, target, weights_of(batch))
        descend(self._critic_adam, critic_loss)
        metrics = {"loss_critic": critic_loss.detach(), "q_value": values.detach().mean()}
        self.td_errors = (values.detach() - target).abs().mean(0)

        self.updates += 1
        if self.updates % self.policy_delay == 0:
            metrics |= self._improve_policy(obs)
        self.track_targets()
        return metrics

    def _improve_policy(self, obs: Tensor) -> dict[str, Tensor]:
        """Steps down equations 9 and 18: the policy, then the temperature."""
        temperature = self.log_temperature.detach().exp()
        unit, log_prob = self.actor.policy.sample(obs)
        with _frozen(self.critics):
            values = self.critics(obs, unit)
            value = values.amin(0) if self.policy_value == "min" else values.mean(0)
            policy_loss = (temperature * log_prob - value).mean()
        descend(self._policy_adam, policy_loss)
        descend(self._temperature_adam, self.temperature_loss(log_prob))
        return {
            "loss_actor": policy_loss.detach(),
            "entropy": -log_prob.detach().mean(),
            "temperature": temperature,
        }

    @torch.no_grad()
    def targets(self, rew: Tensor, new_obs: Tensor, terminated: Tensor, discount: Any = None) -> Tensor:
        """Soft Bellman targets `r + gamma (1 - terminated) V(s')`, with V of equation 3, for equation 5.

        V takes the smallest of the target critics, or of `n_target` drawn of them without replacement. Of
        n-step returns, the entropy of the steps between is left out.

        Args:
            rew: `(B,)` float32.
            new_obs: `(B, obs_size)` flat observations.
            terminated: `(B,)` float32, 1 where the episode terminated.
            discount: `(B,)`, or a number, in place of `gamma`.

        Returns:
            `(B,)` targets, without gradient.
        """
        act, log_prob = self.actor.policy.sample(new_obs)
        values = self.target_critics(new_obs, act)
        if self.n_target < len(values):
            values = values[torch.randperm(len(values), device=values.device)[: self.n_target]]
        value = values.amin(0) - self.log_temperature.exp() * log_prob
        return bootstrapped(rew, self.gamma if discount is None else discount, terminated, value)

    def temperature_loss(self, log_prob: Tensor) -> Tensor:
        """Equation 18, `J(alpha) = E[-alpha (log pi(a|s) + target_entropy)]`; alpha is learned by its log."""
        return -self.log_temperature.exp() * (log_prob.detach() + self.target_entropy).mean()

    def track_targets(self) -> None:
        """Moves the target critics by `tau` towards the critics (Polyak averaging)."""
        track(self.target_critics, self.critics, self.tau)


def residual_loss(values: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Equation 5, `E[(Q(s, a) - target)^2 / 2]`, summed over the critics.

    Args:
        values: `(members, B)` action values.
        target: `(B,)` targets.
        weights: `(B,)` importance weights of the samples; None stands for ones.
    """
    squares = 0.5 * (values - target).square()
    return (squares if weights is None else squares * weights).mean(dim=-1).sum()


@contextmanager
def _frozen(module: nn.Module) -> Generator[None]:
    """Lets gradients pass through a module to its inputs, and spares those of its weights."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
