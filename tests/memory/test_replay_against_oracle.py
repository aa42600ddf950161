"""The memory and the oracle do the same operations; every transition must be the same, bit by bit."""

import pytest

from machines import StoredMachine, run


@pytest.mark.timeout(400)
def test_memory_agrees_with_the_oracle_over_20_000_operations() -> None:
    run(max_examples=400, steps=50)


@pytest.mark.timeout(400)
def test_memory_in_a_folder_agrees_with_the_oracle_over_2_000_operations() -> None:
    run(max_examples=80, steps=25, machine=StoredMachine)


@pytest.mark.stress
@pytest.mark.timeout(7200)
def test_memory_in_a_folder_agrees_with_the_oracle_over_100_000_operations() -> None:
    run(max_examples=2_000, steps=50, machine=StoredMachine)


@pytest.mark.stress
@pytest.mark.timeout(7200)
def test_memory_agrees_with_the_oracle_over_a_million_operations() -> None:
    run(max_examples=10_000, steps=100)
