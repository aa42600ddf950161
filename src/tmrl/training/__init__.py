"""The training loop: an agent learns from a memory that a sample source fills.

- `TrainingAgent`: the interface of what learns.
- `TrainingOffline`, `TorchTrainingOffline`: the loop.
- `Checkpoint`: a whole training in a folder, to go on from.
- `SampleSource`: where samples come from and policies go; `WorkerSource` is a worker in the same process,
  `InProcessLine` joins a worker and a trainer that run in two threads.
"""

from typing import TYPE_CHECKING

from tmrl.lazy import lazy_exports

if TYPE_CHECKING:
    from tmrl.training.agent import TrainingAgent as TrainingAgent
    from tmrl.training.checkpoint import Checkpoint as Checkpoint
    from tmrl.training.offline import TorchTrainingOffline as TorchTrainingOffline
    from tmrl.training.offline import TrainingOffline as TrainingOffline
    from tmrl.training.source import InProcessLine as InProcessLine
    from tmrl.training.source import SampleSource as SampleSource
    from tmrl.training.source import WorkerSource as WorkerSource

__all__ = [
    "Checkpoint",
    "InProcessLine",
    "SampleSource",
    "TorchTrainingOffline",
    "TrainingAgent",
    "TrainingOffline",
    "WorkerSource",
]
__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Checkpoint": "tmrl.training.checkpoint",
        "InProcessLine": "tmrl.training.source",
        "SampleSource": "tmrl.training.source",
        "TorchTrainingOffline": "tmrl.training.offline",
        "TrainingAgent": "tmrl.training.agent",
        "TrainingOffline": "tmrl.training.offline",
        "WorkerSource": "tmrl.training.source",
    },
)
