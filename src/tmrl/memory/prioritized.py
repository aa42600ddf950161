"""Prioritized: transitions with large errors more often, and the weights that make good for it."""

from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from tmrl.memory.samplers import Choice, Followed, Index, Sampler, Slots
from tmrl.memory.sum_tree import SumTree

MAX_ERROR = 1e100
"""Of larger errors the sums could overflow."""


@final
class Prioritized(Sampler):
    """Prioritized experience replay, the proportional variant of Schaul et al. 2016 (arXiv 1511.05952).

    `P(i) = p_i**alpha / sum_k p_k**alpha` (equation 1) with `p_i = |td_error_i| + eps` (section 3.3). The
    draw is stratified: the range of the sum is cut into `batch_size` parts of one size, and one transition is
    drawn from each (section 3.3). The batch's weights are `w_i = (N * P(i))**-beta / max_j w_j` (section
    3.4), the maximum being over the batch, so the largest weight of each batch is 1: over the memory, a
    single transition that is hardly ever drawn would make all updates small.

    A new transition has the largest priority of all that are there when it arrives, after what makes room
    for it has gone; 1 if there is none. `memory.update_priorities(batch.ids, td_errors)` sets others.

    Args:
        alpha: 0 (uniform) to 1.
        beta: Exponent of the weights in the first batch.
        beta_final: Exponent after `beta_steps` batches; between the two it changes linearly.
        beta_steps: Number of batches.
        eps: Added to the magnitude of each error, so that none is 0.

    Raises:
        ValueError: An argument is out of range.
    """

    follows = True
    has_priorities = True
    row_bytes = 9

    def __init__(
        self,
        alpha: float = 0.6,
        beta: float = 0.4,
        beta_final: float = 1.0,
        beta_steps: int = 100_000,
        eps: float = 1e-6,
    ) -> None:
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be between 0 and 1, got {alpha}")
        if not (0 <= beta <= 1 and 0 <= beta_final <= 1):
            raise ValueError(f"beta and beta_final must be between 0 and 1, got {beta} and {beta_final}")
        if beta_steps < 1:
            raise ValueError(f"beta_steps must be at least 1, got {beta_steps}")
        if not 0 < eps < 1:
            raise ValueError(f"eps must be above 0 and below 1, got {eps}")
        self._alpha = alpha
        self._betas = beta, beta_final
        self._beta_steps = beta_steps
        self._eps = eps
        self._step = 0
        self._tree = SumTree(1)

    @property
    def kind(self) -> str:
        """See `Sampler`. What is kept beside a row depends on alpha."""
        return f"Prioritized(alpha={self._alpha})"

    @property
    def alpha(self) -> float:
        """As given; it does not change, because all that is kept depends on it."""
        return self._alpha

    @property
    def beta(self) -> float:
        """Exponent of the weights of the next batch."""
        first, final_ = self._betas
        return first + (final_ - first) * min(1.0, self._step / self._beta_steps)

    def draw(self, batch_size: int, index: Index) -> Choice:
        """See `Sampler`."""
        numbers = (np.arange(batch_size) + self.numbers.take(batch_size)) / batch_size
        slots = self._tree.draw(numbers)
        drawn = self._tree.leaves[slots]
        # N and the sum of all cancel out.
        weights = ((drawn.min() / drawn) ** self.beta).astype(np.float32)
        self._step += 1
        return Choice(index.pairs_at(slots), weights)

    def start(self, followed: Followed) -> None:
        """See `Sampler`."""
        self._tree = SumTree(followed.index.n_rows)

    def added(self, slots: Slots) -> None:
        """See `Sampler`."""
        self._tree.put(slots, self._tree.largest() or 1.0)

    def removed(self, slots: Slots) -> None:
        """See `Sampler`."""
        self._tree.put(slots, 0.0)

    def update(self, slots: Slots, td_errors: NDArray[np.float64]) -> int:
        """See `Sampler`."""
        is_there = self._tree.leaves[slots] > 0
        weights = (np.abs(td_errors) + self._eps) ** self._alpha
        if not is_there.all():
            slots, weights = slots[is_there], weights[is_there]
        self._tree.put(slots, weights)
        return len(is_there) - len(slots)

    def priorities(self, slots: Slots) -> NDArray[np.float64]:
        """See `Sampler`; with the exponent alpha."""
        return self._tree.leaves[slots]

    def restore_priorities(self, slots: Slots, priorities: NDArray[np.float64]) -> None:
        """See `Sampler`."""
        is_there = self._tree.leaves[slots] > 0
        is_known = is_there & (priorities > 0)
        if is_known.any():
            self._tree.put(slots[is_there], priorities[is_known].max())
            self._tree.put(slots[is_known], priorities[is_known])

    def state(self) -> dict[str, Any]:
        """See `Sampler`."""
        return super().state() | {"step": self._step}

    def restore(self, state: dict[str, Any]) -> None:
        """See `Sampler`."""
        super().restore(state)
        self._step = int(state["step"])


def checked_updates(
    sampler: Sampler, ids: Any, td_errors: Any
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ids and errors as arrays of what they must be.

    Args:
        sampler: What they are for.
        ids: `(B,)` integers, an array or a tensor.
        td_errors: `(B,)` numbers, an array or a tensor on any device.

    Raises:
        TypeError: The ids are no integers.
        ValueError: The sampler has no priorities, the shapes differ, or an error is not finite.
    """
    if not sampler.has_priorities:
        raise ValueError(
            f"update_priorities needs a sampler with priorities, but this one is {sampler.kind}; "
            "make the memory with sampler=Prioritized()"
        )
    rows, errors = _array(ids), _array(td_errors)
    if rows.dtype.kind not in "iu":
        raise TypeError(f"ids must be integers, as batch.ids has them, got {rows.dtype}")
    if rows.ndim != 1 or errors.shape != rows.shape:
        raise ValueError(f"td_errors must be one number for each id, {rows.shape}, got {errors.shape}")
    errors = errors.astype(np.float64)
    is_good = np.abs(errors) <= MAX_ERROR
    if not is_good.all():
        bad = int((~is_good).argmax())
        raise ValueError(
            f"td_errors must be finite and at most {MAX_ERROR:.0e}, got {errors[bad]} for row {rows[bad]}; "
            "no priority was changed"
        )
    return rows.astype(np.int64), errors


def _array(values: Any) -> NDArray[Any]:
    if hasattr(values, "detach"):  # a tensor; bfloat16 is a dtype that NumPy lacks
        values = values.detach().cpu()
        values = values.double() if values.is_floating_point() else values
    return np.asarray(values)
