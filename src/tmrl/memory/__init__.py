"""The replay memory: the documented interface, and `ReplayMemory`, ready to use.

- `Memory`, `TorchMemory`: the documented interface and its per-sample path, for users' own memories.
- `ReplayMemory`: final, batched; rows in a ring.
- `Transition`, `FrameStack`, `NStep`, `Sequence`: windows, what a transition drawn expands to.
- `RandomShift`, `to_float`: changes of whole batches.
- `Uniform`, `Prioritized`, `Recent`, `EmphasizeRecent`, `Epoch`, `Mixture`: which transitions make a batch;
  `Sampler`, to write another.
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
    from tmrl.memory.augment import RandomShift as RandomShift
    from tmrl.memory.augment import to_float as to_float
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
    from tmrl.memory.windows import FrameStack as FrameStack
    from tmrl.memory.windows import NStep as NStep
    from tmrl.memory.windows import Sequence as Sequence
    from tmrl.memory.windows import Transition as Transition
    from tmrl.memory.windows import Window as Window
    from tmrl.transition import Batch as Batch

__all__ = [
    "ActionBuffer",
    "Batch",
    "EmphasizeRecent",
    "Epoch",
    "FrameStack",
    "History",
    "Latest",
    "Memory",
    "Mixture",
    "NStep",
    "Prioritized",
    "Quantized",
    "RandomShift",
    "Recent",
    "ReplayMemory",
    "Sampler",
    "Sequence",
    "Stacked",
    "TorchMemory",
    "Transition",
    "Uniform",
    "Window",
    "check_samples_crc",
    "to_float",
]
__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "ActionBuffer": "tmrl.history_rules",
        "Batch": "tmrl.transition",
        "EmphasizeRecent": "tmrl.memory.recent",
        "Epoch": "tmrl.memory.epoch",
        "History": "tmrl.history",
        "Latest": "tmrl.history_rules",
        "Quantized": "tmrl.history_rules",
        "Stacked": "tmrl.history_rules",
        "Memory": "tmrl.memory.base",
        "FrameStack": "tmrl.memory.windows",
        "Mixture": "tmrl.memory.mixture",
        "NStep": "tmrl.memory.windows",
        "Prioritized": "tmrl.memory.prioritized",
        "RandomShift": "tmrl.memory.augment",
        "Recent": "tmrl.memory.recent",
        "ReplayMemory": "tmrl.memory.replay",
        "Sampler": "tmrl.memory.samplers",
        "Sequence": "tmrl.memory.windows",
        "TorchMemory": "tmrl.memory.torch_memory",
        "Transition": "tmrl.memory.windows",
        "Uniform": "tmrl.memory.samplers",
        "Window": "tmrl.memory.windows",
        "check_samples_crc": "tmrl.memory.base",
        "to_float": "tmrl.memory.augment",
    },
)
