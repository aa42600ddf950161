"""tmrl: exact, fast replay memory for reinforcement learning on real-time and distributed data."""

from typing import TYPE_CHECKING

from tmrl.lazy import lazy_exports

if TYPE_CHECKING:
    from tmrl.memory.replay import ReplayMemory as ReplayMemory
    from tmrl.transition import Batch as Batch

__version__ = "1.0.0"
__all__ = ["Batch", "ReplayMemory", "__version__"]
__getattr__, __dir__ = lazy_exports(
    __name__,
    {"Batch": "tmrl.transition", "ReplayMemory": "tmrl.memory.replay"},
)
