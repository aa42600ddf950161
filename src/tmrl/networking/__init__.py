"""The documented home of `Buffer`, `RolloutWorker`, `VectorWorker` and `Trainer`."""

from typing import TYPE_CHECKING

from tmrl.lazy import lazy_exports

if TYPE_CHECKING:
    from tmrl.buffer import Buffer as Buffer
    from tmrl.networking.trainer import Trainer as Trainer
    from tmrl.vector_worker import VectorWorker as VectorWorker
    from tmrl.worker import RolloutWorker as RolloutWorker

__all__ = ["Buffer", "RolloutWorker", "Trainer", "VectorWorker"]
__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Buffer": "tmrl.buffer",
        "RolloutWorker": "tmrl.worker",
        "Trainer": "tmrl.networking.trainer",
        "VectorWorker": "tmrl.vector_worker",
    },
)
