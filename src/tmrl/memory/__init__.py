"""The replay memory: the documented interface, and `ReplayMemory`, ready to use.

- `Memory`, `TorchMemory`: the documented interface and its per-sample path, for users' own memories.
- `ReplayMemory`: final, batched; rows in a ring.
- `check_samples_crc`: the documented CRC comparison.
"""

from typing import TYPE_CHECKING

from tmrl.lazy import lazy_exports

if TYPE_CHECKING:
    from tmrl.memory.base import Memory as Memory
    from tmrl.memory.base import check_samples_crc as check_samples_crc
    from tmrl.memory.replay import ReplayMemory as ReplayMemory
    from tmrl.memory.torch_memory import TorchMemory as TorchMemory
    from tmrl.transition import Batch as Batch

__all__ = ["Batch", "Memory", "ReplayMemory", "TorchMemory", "check_samples_crc"]
__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Batch": "tmrl.transition",
        "Memory": "tmrl.memory.base",
        "ReplayMemory": "tmrl.memory.replay",
        "TorchMemory": "tmrl.memory.torch_memory",
        "check_samples_crc": "tmrl.memory.base",
    },
)
