"""Data sets on disk, read without running what they hold.

- `read_columns`: the documented `data.pkl`, through an unpickler that admits only arrays and containers.
"""

from typing import TYPE_CHECKING

from tmrl.lazy import lazy_exports

if TYPE_CHECKING:
    from tmrl.datasets.pickle_file import read_columns as read_columns

__all__ = ["read_columns"]
__getattr__, __dir__ = lazy_exports(__name__, {"read_columns": "tmrl.datasets.pickle_file"})
