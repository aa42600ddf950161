"""What a trainer wishes of its workers: rows of what its memory keeps, or samples as they are."""

from typing import Any

from tmrl.memory.replay import ReplayMemory
from tmrl.networking.parcel import Wishes


def wishes_of(memory: Any) -> Any:
    """The wishes that suit a memory, as what `json.dumps` takes; None for a memory of the user's own."""
    if not isinstance(memory, ReplayMemory):
        return None
    return Wishes(memory.info_keys, memory.crc_debug).to_json()
