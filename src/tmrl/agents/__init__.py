"""Agents that train on the batches of a memory.

- `SACAgent`: soft actor-critic with a learned temperature, for bounded continuous actions.
- `REDQAgent`: the same with a large ensemble of critics, for few and expensive samples.
- `SquashedGaussianActor`: the policy of both, as a worker sees it.
- `DQNAgent`: deep Q-learning, for numbered actions, from vectors or images.
- `DQNActor`: its policy.
"""

from typing import TYPE_CHECKING

from tmrl.lazy import lazy_exports

if TYPE_CHECKING:
    from tmrl.agents.dqn import DQNActor as DQNActor
    from tmrl.agents.dqn import DQNAgent as DQNAgent
    from tmrl.agents.redq import REDQAgent as REDQAgent
    from tmrl.agents.sac import SACAgent as SACAgent
    from tmrl.agents.sac import SquashedGaussianActor as SquashedGaussianActor

__all__ = ["DQNActor", "DQNAgent", "REDQAgent", "SACAgent", "SquashedGaussianActor"]
__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "DQNActor": "tmrl.agents.dqn",
        "DQNAgent": "tmrl.agents.dqn",
        "REDQAgent": "tmrl.agents.redq",
        "SACAgent": "tmrl.agents.sac",
        "SquashedGaussianActor": "tmrl.agents.sac",
    },
)
