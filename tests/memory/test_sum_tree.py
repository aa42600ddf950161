"""The sum tree is what a list of weights says, bit by bit, after any number of updates."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tmrl.memory.sum_tree import BLOCK, CHILDREN, SumTree


def assert_consistent(tree: SumTree) -> None:
    """Each node is the sum of its children, bit by bit, and the root is that of the leaves."""
    total = tree.total
    above = [tree.top, *(level.reshape(-1) for level in tree.levels)]
    for parents, children in zip(above, tree.levels, strict=False):
        assert parents.tobytes() == children.sum(axis=1).tobytes()
    exact = math.fsum(tree.leaves)
    assert abs(total - exact) <= 1e-12 * exact


def plain_draw(weights: list[float], number: float) -> int:
    """The obvious way: walks along the weights."""
    left = number * math.fsum(weights)
    for slot, weight in enumerate(weights):
        left -= weight
        if left < 0:
            return slot
    return max(slot for slot, weight in enumerate(weights) if weight > 0)


def test_a_million_updates_leave_no_rounding_error_behind() -> None:
    """B29: no difference is ever added, so nothing drifts; magnitudes of 1e-6 to 1e6."""
    rng = np.random.default_rng(0)
    tree = SumTree(100_000)
    for _ in range(2_000):
        slots = rng.integers(0, 100_000, 500)
        tree.put(slots, 10 ** rng.uniform(-6, 6, 500) * (rng.random(500) > 0.1))
        if rng.random() < 0.3:
            assert tree.total > 0
    assert_consistent(tree)


@pytest.mark.parametrize("n", [1, 2, 255, 256, 300, 1000])
def test_an_update_of_any_size_sums_as_the_whole_tree_does(n: int) -> None:
    rng = np.random.default_rng(n)
    tree = SumTree(3 * BLOCK)
    tree.put(np.arange(3 * BLOCK), rng.random(3 * BLOCK))
    for _ in range(20):
        tree.put(rng.integers(0, 3 * BLOCK, n), rng.random(n))
        assert_consistent(tree)


@settings(max_examples=200, deadline=None)
@given(
    weights=st.lists(st.sampled_from([0.0, 1e-9, 0.25, 1.0, 3.0, 1e9]), min_size=1, max_size=60),
    numbers=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=20),
)
def test_draws_are_those_of_a_walk_along_the_weights(weights: list[float], numbers: list[float]) -> None:
    if not any(weights):
        return
    tree = SumTree(len(weights))
    tree.put(np.arange(len(weights)), np.array(weights))
    drawn = tree.draw(np.array(numbers))
    for number, slot in zip(numbers, drawn.tolist(), strict=True):
        assert weights[slot] > 0
        expected = plain_draw(weights, number)
        # At the border of two weights rounding may decide; between them there must then be next to nothing.
        passed = math.fsum(weights[min(slot, expected) + 1 : max(slot, expected)])
        assert slot == expected or passed <= 1e-12 * math.fsum(weights) or weights[slot] < 1e-6


def test_only_what_has_a_weight_is_drawn_also_at_the_very_end() -> None:
    """B23, B24, B28, B29: the last leaf is drawn, none beyond it, and none of 0 wherever rounding leads."""
    largest = 1 - 2.0**-53
    for n in (1, CHILDREN, CHILDREN + 1, BLOCK, BLOCK + 1, 2 * BLOCK):
        tree = SumTree(n)
        tree.put(np.array([n - 1]), 0.1)
        assert tree.draw(np.array([0.0, 0.5, largest])).tolist() == [n - 1] * 3
        tree.put(np.arange(n), np.random.default_rng(n).random(n) * 0.3 + 1e-9)
        assert tree.draw(np.array([largest])).tolist() == [n - 1]
        tree.put(np.arange(0, n, 2), 0.0)
        if n > 1:
            drawn = tree.draw(np.linspace(0, largest, 10_000))
            assert (drawn % 2 == 1).all()


def test_the_last_of_several_weights_for_a_slot_counts() -> None:
    """B30."""
    tree = SumTree(10)
    tree.put(np.array([3, 4, 3, 3]), np.array([9.0, 1.0, 8.0, 2.0]))
    assert tree.leaves[[3, 4]].tolist() == [2.0, 1.0]
    assert tree.total == 3.0
    assert tree.largest() == 2.0


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_largest_weight_is_known_whatever_goes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 2 * BLOCK + 5
    tree, weights = SumTree(n), np.zeros(n)
    assert tree.largest() == 0
    for _ in range(60):
        slots = rng.integers(0, n, rng.integers(1, 30))
        values = rng.integers(0, 6, len(slots)) * float(rng.random() < 0.8)
        for slot, value in zip(slots, values, strict=True):
            weights[slot] = value
        tree.put(slots, values)
        if rng.random() < 0.5:
            slots = rng.permutation(n)[:2000]
            weights[slots] = 0
            tree.put(slots, 0.0)
        assert tree.largest() == weights.max()
