"""The replay memory: the documented interface, and `ReplayMemory`, ready to use.

- `Memory`, `TorchMemory`: the documented interface and its per-sample path, for users' own memories.
- `ReplayMemory`: final, batched; rows in a ring.
- `Transition`, `FrameStack`, `NStep`, `Sequence`: windows, what a transition drawn expands to.
- `History` of `Latest`, `Stacked`, `ActionBuffer`, `Quantized`: what is left out of observations.
- `check_samples_crc`: the documented CRC comparison.
"""

from typing import TYPE_CHECKING

from tmrl.lazy import lazy_exports

if TYPE_CHECKING:
    from tmrl.history import History as History
    from tmrl.history_rules import ActionBuffer as ActionBuffer
    from tmrl.history_rules import Latest as Latest
    from tmrl.history_rules import Quantized as Quantized
    from tmrl.history_rules import Stacked as Stacked
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
    "ActionBuffer",
    "Batch",
    "FrameStack",
    "History",
    "Latest",
    "Memory",
    "NStep",
    "Quantized",
    "ReplayMemory",
    "Sequence",
    "Stacked",
    "TorchMemory",
    "Transition",
    "Window",
    "check_samples_crc",
]
__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "ActionBuffer": "tmrl.history_rules",
        "Batch": "tmrl.transition",
        "History": "tmrl.history",
        "Latest": "tmrl.history_rules",
        "Quantized": "tmrl.history_rules",
        "Stacked": "tmrl.history_rules",
        "Memory": "tmrl.memory.base",
        "ReplayMemory": "tmrl.memory.replay",
        "FrameStack": "tmrl.memory.windows",
        "NStep": "tmrl.memory.windows",
        "Sequence": "tmrl.memory.windows",
        "TorchMemory": "tmrl.memory.torch_memory",
        "Transition": "tmrl.memory.windows",
        "Window": "tmrl.memory.windows",
        "check_samples_crc": "tmrl.memory.base",
    },
)
