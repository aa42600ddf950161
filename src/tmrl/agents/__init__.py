"""Agents that train on the batches of a memory.

- `SACAgent`: soft actor-critic with a learned temperature, for bounded continuous actions.
- `SquashedGaussianActor`: its policy, as a worker sees it.
"""

from typing import TYPE_CHECKING

from tmrl.lazy import lazy_exports

if TYPE_CHECKING:
    from tmrl.agents.sac import SACAgent as SACAgent
    from tmrl.agents.sac import SquashedGaussianActor as SquashedGaussianActor

__all__ = ["SACAgent", "SquashedGaussianActor"]
__getattr__, __dir__ = lazy_exports(
    __name__,
    {"SACAgent": "tmrl.agents.sac", "SquashedGaussianActor": "tmrl.agents.sac"},
)
