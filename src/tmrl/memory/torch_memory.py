"""TorchMemory: the documented interface with torch tensors."""

from collections.abc import Sequence
from typing import Any

from tmrl.collate import Device, collate_torch
from tmrl.memory.base import Memory


class TorchMemory(Memory):
    """A `Memory` whose batches are torch tensors; subclasses define all but `collate`.

    What `get_transition` returns keeps its dtype, so that a reward that is a python float becomes float64 and
    one that is `np.float32` stays so; the two flags are float32. Arguments are those of `Memory`.
    """

    def collate(self, batch: Sequence[Any], device: Device) -> Any:
        """Collates transitions into tensors on `device` with `collate_torch`."""
        return collate_torch(batch, device)
