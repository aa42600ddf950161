"""Late writes: stored fields of rows that change afterwards, as a reward model or a person says.

What may change is what nothing else was built on: the reward and the kept entries of `info`. Observations and
actions are what the worker saw.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmrl.integrity import leaf_crc
from tmrl.nest import as_array, flatten
from tmrl.rows import Rows
from tmrl.schema import Leaf, Nest, Schema

REWARD = Leaf("rew", np.dtype(np.float32), ())


class LateValues:
    """Values for fields of rows, checked.

    Args:
        schema: The layout of the rows.
        ids: `(n,)` ids of the rows; where one is repeated, the last counts.
        values: Field, `rew` or an entry of `info`, to a nest of arrays or tensors `(n, ...)`.

    Raises:
        ValueError: A field may not change, or a value has another shape or dtype than is stored.

    Attributes:
        ids: `(m,)` the ids, each once, ascending.
    """

    def __init__(self, schema: Schema, ids: Any, values: Mapping[str, Any]) -> None:
        given = as_array(ids)[0]
        if given.ndim != 1 or given.dtype.kind not in "iu":
            raise ValueError(f"ids must be integers of shape (n,), got {given.dtype} of shape {given.shape}")
        self._schema = schema
        # The last of those that are equal is the first one seen from behind.
        self.ids, behind = np.unique(given[::-1].astype(np.int64), return_index=True)
        self._columns = {
            leaf.name: column[::-1][behind]
            for name, value in values.items()
            for leaf, column in self._checked(name, value, len(given))
        }

    def _checked(self, name: str, value: Any, n: int) -> list[tuple[Leaf, NDArray[Any]]]:
        if name == "rew":
            return [(REWARD, _column(REWARD, value, n, may_cast=True))]
        nest = self._nest_of(name)
        leaves, treespec = ([value], nest.treespec) if nest.is_leaf else flatten(value)
        if treespec != nest.treespec:
            raise ValueError(f"{name} must be nested as it is stored, {nest.treespec}, got {treespec}")
        return [(leaf, _column(leaf, given, n)) for leaf, given in zip(nest.leaves, leaves, strict=True)]

    def _nest_of(self, name: str) -> Nest:
        if name not in self._schema.info:
            known = ", ".join(["rew", *self._schema.info])
            raise ValueError(
                f"write must change rew or entries of info that are kept ({known}), got {name!r}; name it in "
                "info_keys when the memory is made"
            )
        return self._schema.info[name]

    def apply(self, rows: Rows, chosen: NDArray[np.bool_]) -> None:
        """Changes rows in place, checksums of CRC mode included.

        Args:
            rows: `(k,)` copies of the rows with the chosen ids.
            chosen: `(m,)` which of `ids` they are.
        """
        for name, column in self._columns.items():
            rows[name] = column[chosen]
        if self._schema.with_crc and "rew" in self._columns:
            place = self._schema.crc_names.index("rew")
            rows["crc/fields"][:, place] = [leaf_crc(reward) for reward in rows["rew"]]


def _column(leaf: Leaf, value: Any, n: int, may_cast: bool = False) -> NDArray[Any]:
    array, is_bfloat16 = as_array(value)
    found = f"{'bfloat16' if is_bfloat16 else array.dtype} of shape {array.shape}"
    is_alike = array.dtype == leaf.dtype and is_bfloat16 == leaf.is_bfloat16
    is_number = may_cast and array.dtype.kind in "biuf" and not is_bfloat16
    if array.shape != (n, *leaf.shape) or not (is_alike or is_number):
        raise ValueError(f"{leaf.name} must be {leaf.dtype_name} of shape {(n, *leaf.shape)}, got {found}")
    if may_cast and not np.isfinite(array).all():
        raise ValueError("rew must be finite, got NaN or infinity")
    return array.astype(leaf.dtype, copy=False)
