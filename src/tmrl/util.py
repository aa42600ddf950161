"""The documented old path of `partial` and `collate_torch`."""

from typing import TYPE_CHECKING

from tmrl.lazy import lazy_exports

if TYPE_CHECKING:
    from tmrl.collate import collate_torch
    from tmrl.partial import partial

__all__ = ["collate_torch", "partial"]
__getattr__, __dir__ = lazy_exports(__name__, {"collate_torch": "tmrl.collate", "partial": "tmrl.partial"})
