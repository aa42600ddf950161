"""The documented home of `Buffer`, `RolloutWorker`, `VectorWorker`, `Server` and `Trainer`."""

from typing import TYPE_CHECKING

from tmrl.lazy import lazy_exports

if TYPE_CHECKING:
    from tmrl.buffer import Buffer as Buffer
    from tmrl.networking.server import Server as Server
    from tmrl.networking.trainer import Trainer as Trainer
    from tmrl.networking.worker import RolloutWorker as RolloutWorker
    from tmrl.vector_worker import VectorWorker as VectorWorker

__all__ = ["Buffer", "RolloutWorker", "Server", "Trainer", "VectorWorker"]
__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Buffer": "tmrl.buffer",
        "RolloutWorker": "tmrl.networking.worker",
        "Server": "tmrl.networking.server",
        "Trainer": "tmrl.networking.trainer",
        "VectorWorker": "tmrl.vector_worker",
    },
)
