"""The replay memory: the documented interface, and `ReplayMemory`, ready to use.

- `Memory`, `TorchMemory`: the documented interface and its per-sample path, for users' own memories.
- `ReplayMemory`: final, batched; rows in a ring.
- `Transition`, `FrameStack`, `NStep`, `Sequence`: windows, what a transition drawn expands to.
- `RandomShift`, `to_float`: changes of whole batches.
- `check_samples_crc`: the documented CRC comparison.
"""

from typing import TYPE_CHECKING

from tmrl.lazy import lazy_exports

if TYPE_CHECKING:
    from tmrl.memory.augment import RandomShift as RandomShift
    from tmrl.memory.augment import to_float as to_float
    from tmrl.memory.base import Memory as Memory
    from tmrl.memory.base import check_samples_crc as check_samples_crc
    from tmrl.memory.replay import ReplayMemory as ReplayMemory
    from tmrl.memory.torch_memory import TorchMemory as TorchMemory
    from tmrl.memory.windows import FrameStack as FrameStack
    from tmrl.memory.windows import NStep as NStep
    from tmrl.memory.windows import Sequence as Sequence
    from tmrl.memory.windows import Transition as Transition
    from tmrl.memory.windows import Window as Window
    from tmrl.transition import Batch as Batch

__all__ = [
    "Batch",
    "FrameStack",
    "Memory",
    "NStep",
    "RandomShift",
    "ReplayMemory",
    "Sequence",
    "TorchMemory",
    "Transition",
    "Window",
    "check_samples_crc",
    "to_float",
]
__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Batch": "tmrl.transition",
        "Memory": "tmrl.memory.base",
        "RandomShift": "tmrl.memory.augment",
        "ReplayMemory": "tmrl.memory.replay",
        "FrameStack": "tmrl.memory.windows",
        "NStep": "tmrl.memory.windows",
        "Sequence": "tmrl.memory.windows",
        "TorchMemory": "tmrl.memory.torch_memory",
        "Transition": "tmrl.memory.windows",
        "Window": "tmrl.memory.windows",
        "check_samples_crc": "tmrl.memory.base",
        "to_float": "tmrl.memory.augment",
    },
)
