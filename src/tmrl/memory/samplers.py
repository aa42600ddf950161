"""Samplers: which transitions make a batch."""

from base64 import b64decode, b64encode
from typing import Any

import numpy as np
from numpy.typing import NDArray

BATCHES_AHEAD = 16
"""Random numbers are drawn for this many batches at a time, because each call of the generator costs."""


class Uniform:
    """Every transition equally likely, with replacement.

    Random *numbers* are drawn ahead, not indices: they are scaled by the number of transitions when a batch
    is drawn, so that a transition appended just before can be in it.

    Args:
        rng: The source of randomness; the sampler is its only user.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._numbers = np.empty(0, np.float64)

    def draw(self, batch_size: int, n_transitions: int) -> NDArray[np.int64]:
        """Draws ranks.

        Args:
            batch_size: How many.
            n_transitions: Number of transitions, at least 1.

        Returns:
            `(batch_size,)` int64 in `[0, n_transitions)`; rank 0 is the oldest transition.
        """
        if len(self._numbers) < batch_size:
            fresh = self._rng.random(BATCHES_AHEAD * batch_size)
            self._numbers = np.concatenate([self._numbers, fresh])
        numbers, self._numbers = self._numbers[:batch_size], self._numbers[batch_size:]
        # The product stays below n_transitions also after rounding: the largest number is 1 - 2**-53.
        return (numbers * n_transitions).astype(np.int64)

    def mark(self) -> Any:
        """Where the draws stand, for `reset`; cheaper than `state`, and only for this process."""
        return self._rng.bit_generator.state, self._numbers

    def reset(self, mark: Any) -> None:
        """Goes back to where `mark` was taken."""
        self._rng.bit_generator.state, self._numbers = mark

    def state(self) -> dict[str, Any]:
        """The generator and the numbers drawn ahead, as what `json.dumps` takes."""
        return {
            "generator": self._rng.bit_generator.state,
            "numbers": b64encode(self._numbers.tobytes()).decode(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Takes over what `state` returned; the draws go on as if nothing had happened."""
        self._rng.bit_generator.state = state["generator"]
        self._numbers = np.frombuffer(b64decode(state["numbers"]), np.float64)
