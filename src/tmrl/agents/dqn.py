"""Deep Q-learning for numbered actions: Mnih et al. 2015 (Nature 518), with what became usual since.

- Double Q-learning (van Hasselt et al. 2016, arXiv 1509.06461, equation 4): one network chooses the next
  action, the other says what it is worth.
- Two streams in the network (Wang et al. 2016, arXiv 1511.06581, equation 9): `q_network.DuelingHead`.
- n-step returns and prioritised batches (Hessel et al. 2018, arXiv 1710.02298): the memory makes them, the
  agent takes `discounts` and `weights` from the batch and leaves `td_errors`.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from gymnasium.spaces import Space
from torch import Tensor
from torch.nn import functional

from tmrl.actor import TorchActorModule
from tmrl.agents.q_network import QNetwork
from tmrl.agents.spaces import discrete
from tmrl.agents.steps import bootstrapped, check, descend, discount_of, track, weights_of
from tmrl.training.agent import TrainingAgent


class DQNActor(TorchActorModule):
    """Takes the action of the highest value, or with probability `epsilon` any.

    `epsilon` is part of the policy: the agent lowers it, and it comes to the workers with the weights.

    Args:
        observation_space: What the policy sees, as `QNetwork` takes it.
        action_space: A Discrete space.
        device: Where the policy computes.
        hidden: Widths of the hidden layers; None stands for 512 on images and 128, 128 on vectors.
        is_dueling: Whether the network has two streams.

    Raises:
        ValueError: A space does not suit; the message says why and what would.
    """

    epsilon: Tensor

    def __init__(
        self,
        observation_space: Space[Any],
        action_space: Space[Any],
        device: Any = "cpu",
        hidden: Sequence[int] | None = None,
        is_dueling: bool = True,
    ) -> None:
        super().__init__(observation_space, action_space, device)
        self._actions = discrete(action_space)
        self.network = QNetwork(observation_space, int(self._actions.n), hidden, is_dueling)
        self.register_buffer("epsilon", torch.ones(()))
        self.to(device)

    def index_of(self, act: Tensor) -> Tensor:
        """Maps a batch of actions `(B,)` to int64 indices from 0."""
        return act.long() - int(self._actions.start)

    def act(self, obs: Any, test: bool = False) -> Any:
        """Acts on a collated batch of one; never at random if `test`."""
        if not test and torch.rand(()).item() < self.epsilon.item():
            index = torch.randint(self.network.n_actions, ())
        else:
            index = self.network(obs)[0].argmax()
        return self._actions.dtype.type(self._actions.start + index.item())


class DQNAgent(TrainingAgent):
    """Trains a `DQNActor` by double Q-learning.

    Network weights and exploration come from torch's global generator: seed it with `torch.manual_seed`.

    Args:
        observation_space: What the policy sees, as `QNetwork` takes it.
        action_space: A Discrete space.
        device: Where networks and batches are.
        gamma: Discount factor of a step, in [0, 1], for batches that have no `discounts`.
        lr: Learning rate (Adam).
        hidden: Widths of the hidden layers; None stands for 512 on images and 128, 128 on vectors.
        tau: Share of the network that goes into its target, in (0, 1].
        target_period: Updates from one move of the target to the next. With `tau=1` the target is a copy that
            is renewed so often, as in Mnih et al. 2015; with 1, Polyak averaging.
        is_double: Whether the network chooses the next action, and not its target.
        is_dueling: Whether the network has two streams.
        initial_epsilon: Probability of a random action at the start.
        final_epsilon: The same after `epsilon_updates`.
        epsilon_updates: Updates over which it falls in a straight line.

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
        lr: float = 3e-4,
        hidden: Sequence[int] | None = None,
        tau: float = 0.005,
        target_period: int = 1,
        is_double: bool = True,
        is_dueling: bool = True,
        initial_epsilon: float = 1.0,
        final_epsilon: float = 0.05,
        epsilon_updates: int = 10_000,
    ) -> None:
        super().__init__(observation_space=observation_space, action_space=action_space, device=device)
        check("gamma", gamma, 0.0 <= gamma <= 1.0, "in [0, 1]")
        check("lr", lr, lr > 0.0, "above 0")
        check("tau", tau, 0.0 < tau <= 1.0, "in (0, 1]")
        check("target_period", target_period, target_period >= 1, "at least 1")
        check("initial_epsilon", initial_epsilon, 0.0 <= initial_epsilon <= 1.0, "in [0, 1]")
        check("final_epsilon", final_epsilon, 0.0 <= final_epsilon <= 1.0, "in [0, 1]")
        check("epsilon_updates", epsilon_updates, epsilon_updates >= 1, "at least 1")
        self.gamma, self.tau, self.target_period = gamma, tau, target_period
        self.is_double = is_double
        self.initial_epsilon, self.final_epsilon = initial_epsilon, final_epsilon
        self.epsilon_updates = epsilon_updates
        self.updates = 0
        self.actor = DQNActor(observation_space, action_space, device, hidden, is_dueling)
        self.actor.epsilon.fill_(initial_epsilon)
        self.target_network = deepcopy(self.actor.network).requires_grad_(False)
        self._adam = torch.optim.Adam(self.actor.network.parameters(), lr, fused=True)

    def get_actor(self) -> DQNActor:
        """The actor in training, not a copy."""
        return self.actor

    def train(self, batch: Any) -> dict[str, Any]:
        """Makes one gradient step of algorithm 1 of Mnih et al. 2015.

        Args:
            batch: A tuple of six as a memory hands it out, on the agent's device. If it has importance
                `weights` of shape `(B,)`, they weigh the loss; if it has `discounts`, they stand in for
                `gamma`.

        Returns:
            Loss and state by name, tensors of one element, so that the device is not waited for.
        """
        prev_obs, new_act, rew, new_obs, terminated, _ = batch
        target = self.targets(rew, new_obs, terminated, discount_of(batch, self.gamma))
        values = _chosen(self.actor.network(prev_obs), self.actor.index_of(new_act))
        loss = huber_loss(values, target, weights_of(batch))
        descend(self._adam, loss)
        self.td_errors = (values.detach() - target).abs()

        self.updates += 1
        if self.updates % self.target_period == 0:
            track(self.target_network, self.actor.network, self.tau)
        self.actor.epsilon.fill_(self.epsilon_after(self.updates))
        return {
            "loss": loss.detach(),
            "q_value": values.detach().mean(),
            "epsilon": self.actor.epsilon.clone(),
        }

    @torch.no_grad()
    def targets(self, rew: Tensor, new_obs: Any, terminated: Tensor, discount: Any = None) -> Tensor:
        """Targets `r + gamma (1 - terminated) Q'(s', a')`, with Q' of the target network.

        a' is the best action by the network (van Hasselt et al. 2016, equation 4); unless `is_double`, by the
        target network (Mnih et al. 2015, algorithm 1).

        Args:
            rew: `(B,)` float32.
            new_obs: Batch of observations.
            terminated: `(B,)` float32, 1 where the episode terminated.
            discount: `(B,)`, or a number, in place of `gamma`.

        Returns:
            `(B,)` targets, without gradient.
        """
        values = self.target_network(new_obs)
        judge = self.actor.network(new_obs) if self.is_double else values
        value = _chosen(values, judge.argmax(dim=-1))
        return bootstrapped(rew, self.gamma if discount is None else discount, terminated, value)

    def epsilon_after(self, updates: int) -> float:
        """Probability of a random action after so many updates."""
        share = min(1.0, updates / self.epsilon_updates)
        return self.initial_epsilon + share * (self.final_epsilon - self.initial_epsilon)


def huber_loss(values: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """The mean of Huber's loss: its gradient is the error clipped to [-1, 1], as Mnih et al. 2015 have it.

    Args:
        values: `(B,)` action values.
        target: `(B,)` targets.
        weights: `(B,)` importance weights of the samples; None stands for ones.
    """
    losses = functional.huber_loss(values, target, reduction="none")
    return (losses if weights is None else losses * weights).mean()


def _chosen(values: Tensor, index: Tensor) -> Tensor:
    """Of values `(B, n_actions)`, those of one action each, `(B,)`."""
    return values.gather(-1, index.unsqueeze(-1)).squeeze(-1)
