"""The replay memory: the documented interface, and `ReplayMemory`, ready to use.

- `Memory`, `TorchMemory`: the documented interface and its per-sample path, for users' own memories.
- `ReplayMemory`: final, batched; rows in a ring.
- `Uniform`, `Prioritized`, `Recent`, `EmphasizeRecent`, `Epoch`, `Mixture`: which transitions make a batch;
  `Sampler`, to write another.
- `check_samples_crc`: the documented CRC comparison.
"""

from typing import TYPE_CHECKING

from tmrl.lazy import lazy_exports

if TYPE_CHECKING:
    from tmrl.memory.base import Memory as Memory
    from tmrl.memory.base import check_samples_crc as check_samples_crc
    from tmrl.memory.epoch import Epoch as Epoch
    from tmrl.memory.mixture import Mixture as Mixture
    from tmrl.memory.prioritized import Prioritized as Prioritized
    from tmrl.memory.recent import EmphasizeRecent as EmphasizeRecent
    from tmrl.memory.recent import Recent as Recent
    from tmrl.memory.replay import ReplayMemory as ReplayMemory
    from tmrl.memory.samplers import Sampler as Sampler
    from tmrl.memory.samplers import Uniform as Uniform
    from tmrl.memory.torch_memory import TorchMemory as TorchMemory
    from tmrl.transition import Batch as Batch

__all__ = [
    "Batch",
    "EmphasizeRecent",
    "Epoch",
    "Memory",
    "Mixture",
    "Prioritized",
    "Recent",
    "ReplayMemory",
    "Sampler",
    "TorchMemory",
    "Uniform",
    "check_samples_crc",
]
__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Batch": "tmrl.transition",
        "EmphasizeRecent": "tmrl.memory.recent",
        "Epoch": "tmrl.memory.epoch",
        "Memory": "tmrl.memory.base",
        "Mixture": "tmrl.memory.mixture",
        "Prioritized": "tmrl.memory.prioritized",
        "Recent": "tmrl.memory.recent",
        "ReplayMemory": "tmrl.memory.replay",
        "Sampler": "tmrl.memory.samplers",
        "TorchMemory": "tmrl.memory.torch_memory",
        "Uniform": "tmrl.memory.samplers",
        "check_samples_crc": "tmrl.memory.base",
    },
)
