"""Randomized ensembled double Q-learning: Chen et al. 2021, arXiv 2101.05982.

It is soft actor-critic with another critic, so one implementation serves both: `REDQAgent` holds a `SACAgent`
that is set up as the paper's algorithm 1 says.

    line 7    M distinct critics of N are drawn at each update        n_target of n_critics
    line 8    the smallest of their targets' values makes the target  n_target
    line 9    all N critics descend towards it                        residual_loss
    line 10   all N targets follow                                    tau = 1 - rho
    line 11   every G updates, the policy rises along the mean of N   policy_value, policy_delay

G updates for each step of the environment (line 5) are the training loop's business:
`max_training_steps_per_env_step=20`.
"""

from typing import Any

from gymnasium.spaces import Space

from tmrl.agents.sac import SACAgent, SquashedGaussianActor
from tmrl.training.agent import TrainingAgent


class REDQAgent(TrainingAgent):
    """Trains a `SquashedGaussianActor` from few steps of the environment, by many updates for each.

    With `layer_norm`, and batches half of which are demonstrations, it is RLPD (Ball et al. 2023, arXiv
    2302.02948).

    Args:
        observation_space: Any nest of Dict and Tuple with a Box of vectors as leaves.
        action_space: A bounded Box.
        device: Where networks and batches are.
        n_critics: Critics in the ensemble, N of the paper.
        n_target: Critics whose smallest value makes the targets, M of the paper.
        policy_delay: Updates of the critics for each of the policy: G of the paper, and the training loop's
            `max_training_steps_per_env_step`.
        options: As of `SACAgent`: `gamma, tau, lr, hidden, initial_temperature, target_entropy, layer_norm`.

    Raises:
        ValueError: A space or a number does not suit; the message says why and what would.
    """

    def __init__(
        self,
        observation_space: Space[Any],
        action_space: Space[Any],
        device: Any = "cpu",
        *,
        n_critics: int = 10,
        n_target: int = 2,
        policy_delay: int = 20,
        **options: Any,
    ) -> None:
        super().__init__(observation_space=observation_space, action_space=action_space, device=device)
        self.sac = SACAgent(
            observation_space,
            action_space,
            device,
            n_critics=n_critics,
            n_target=n_target,
            policy_delay=policy_delay,
            policy_value="mean",
            **options,
        )

    def get_actor(self) -> SquashedGaussianActor:
        """The actor in training, not a copy."""
        return self.sac.get_actor()

    def train(self, batch: Any) -> dict[str, Any]:
        """Makes one of the G updates of algorithm 1; takes and returns what `SACAgent.train` does."""
        metrics = self.sac.train(batch)
        self.td_errors = self.sac.td_errors
        return metrics
