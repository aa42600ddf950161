"""Priorities: the paper's formulas, by row id, exact under eviction, resize and reload."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from frequencies import assert_distributed
from makers import buffer_of, plain_episode, stamped
from tmrl.datasets import files, open_dataset
from tmrl.errors import DatasetError, EmptyMemoryError
from tmrl.memory import Mixture, Prioritized, ReplayMemory, Uniform

N = 40


def memory_of(n: int = N, sampler: Any = None, **kwargs: Any) -> ReplayMemory:
    """One episode of `n` steps; the id of a transition is its number, from 1 on."""
    sampler = sampler or Prioritized()
    memory = ReplayMemory(**{"memory_size": N, "batch_size": 20, "seed": 0, "sampler": sampler, **kwargs})
    memory.append(buffer_of(plain_episode(n)))
    return memory


def leaves(memory: ReplayMemory) -> dict[int, float]:
    """Row id to what the tree holds for it."""
    store = memory._store
    assert store is not None
    ids = memory.take(range(len(memory))).ids
    found = store.priorities()
    assert found is not None
    assert np.count_nonzero(found) == len(ids)
    return {int(row): float(found[row - store.ring.oldest]) for row in ids}


def test_frequencies_and_weights_are_the_papers() -> None:
    """B26, B27: alpha counts once; 10^5 updates, then 10^6 draws; a false alarm in 10^6."""
    alpha, beta, eps = 0.7, 0.5, 1e-3
    memory = memory_of(sampler=Prioritized(alpha, beta, beta, 1, eps), batch_size=200)
    rng = np.random.default_rng(1)
    errors = np.zeros(N + 1)
    for _ in range(500):
        ids = rng.integers(1, N + 1, 200)
        values = rng.standard_normal(200) * 3
        memory.update_priorities(ids, values)
        for row, value in zip(ids.tolist(), values.tolist(), strict=True):
            errors[row] = value
    priorities = (np.abs(errors[1:]) + eps) ** alpha
    expected = priorities / priorities.sum()
    drawn: list[Any] = []
    for _ in range(5_000):
        batch = memory.sample()
        drawn.append(batch.ids)
        weights = (N * expected[batch.ids - 1]) ** -beta
        np.testing.assert_allclose(batch.weights.numpy(), weights / weights.max(), rtol=1e-6)
    assert batch.weights.dtype == torch.float32
    assert_distributed(np.concatenate(drawn), dict(enumerate(expected.tolist(), 1)))


def test_the_draw_is_stratified() -> None:
    """One transition of each part of the range of the sum: with equal priorities, each in its turn."""
    memory = memory_of(batch_size=N)
    for _ in range(20):
        ids = memory.sample().ids
        slots = np.sort(ids % (N + 1))
        assert (np.abs(slots - np.arange(1, N + 1)) <= 1).all()


def test_beta_goes_linearly_to_its_final_value() -> None:
    """B32: the weights reach the batch, with the exponent of the moment."""
    sampler = Prioritized(alpha=1, beta=0.2, beta_final=0.8, beta_steps=3)
    memory = memory_of(sampler=sampler)
    memory.update_priorities(np.arange(1, N + 1), np.linspace(1, 4, N))
    for beta in (0.2, 0.4, 0.6, 0.8, 0.8):
        assert sampler.beta == pytest.approx(beta)
        batch = memory.sample()
        values = np.linspace(1, 4, N)[batch.ids - 1] + 1e-6
        np.testing.assert_allclose(batch.weights.numpy(), (values.min() / values) ** beta, rtol=1e-5)


def test_a_new_transition_gets_the_largest_priority_of_those_that_are_there() -> None:
    """B25: of those present, not of all times; 1 if there is none."""
    memory = memory_of(5, sampler=Prioritized(alpha=1, eps=0.5), memory_size=8)
    assert set(leaves(memory).values()) == {1.0}
    memory.update_priorities([1, 2, 3, 4, 5], [9.0, 0.0, 3.0, 1.0, 0.0])
    memory.append(buffer_of(plain_episode(2)))
    assert leaves(memory) == {1: 9.5, 2: 0.5, 3: 3.5, 4: 1.5, 5: 0.5, 7: 9.5, 8: 9.5}
    memory.update_priorities([7, 8, 1], [0.0, 0.0, 0.0])
    memory.append(buffer_of(plain_episode(1)))
    assert leaves(memory) == {3: 3.5, 4: 1.5, 5: 0.5, 7: 0.5, 8: 0.5, 10: 3.5}


def test_only_the_ids_named_change_and_signs_do_not_count() -> None:
    """B31, B33: the magnitude is taken, the others stay, and ids may be far above 2**31."""
    memory = memory_of(sampler=Prioritized(alpha=1, eps=0.5))
    store = memory._store
    assert store is not None
    memory.update_priorities(torch.tensor([3, 7]), torch.tensor([-2.0, 4.0], dtype=torch.bfloat16))
    assert leaves(memory) == {row: {3: 2.5, 7: 4.5}.get(row, 1.0) for row in range(1, N + 1)}
    far = 2**33 // (N + 1) * (N + 1)
    memory = memory_of(0, sampler=Prioritized(alpha=1, eps=0.5))
    memory = memory_of(1, sampler=Prioritized(alpha=1, eps=0.5))
    store = memory._store
    assert store is not None
    store.ring.oldest += far
    store.ring.next += far
    store.streams._newest.clear()
    memory.append(buffer_of(stamped(plain_episode(3))))
    ids = memory.take([-1]).ids
    assert ids[0] > 2**32
    memory.update_priorities(ids, [6.0])
    assert leaves(memory)[int(ids[0])] == 6.5


def test_of_an_id_named_twice_the_last_error_counts() -> None:
    """B30."""
    memory = memory_of(sampler=Prioritized(alpha=1, eps=0.5))
    memory.update_priorities([5, 6, 5, 5], [1.0, 2.0, 8.0, 3.0])
    assert (leaves(memory)[5], leaves(memory)[6]) == (3.5, 2.5)


def test_transitions_evicted_meanwhile_are_ignored_and_counted() -> None:
    """B33, B35: the rows that are in their slots now do not change; half a transition is none."""
    memory = memory_of(sampler=Prioritized(alpha=1, eps=0.5))
    batch = memory.sample()
    memory.append(buffer_of(plain_episode(9)))
    before = leaves(memory)
    gone = [row for row in batch.ids.tolist() if row not in before]
    assert 0 < len(gone) < len(batch.ids)
    memory.update_priorities(batch.ids, batch.ids.astype(float))
    expected = before | {row: row + 0.5 for row in batch.ids.tolist() if row in before}
    assert leaves(memory) == expected
    assert memory.stats().ignored_updates == len(gone)
    first = min(before)
    memory.update_priorities([first - 1], [1.0])  # its row is held, the one before it is not
    assert memory.stats().ignored_updates == len(gone) + 1


def test_callers_arrays_are_not_changed() -> None:
    """B38."""
    memory = memory_of()
    ids, errors = np.array([1, 2, 2]), np.array([-1.0, -2.0, 3.0])
    ids.flags.writeable = errors.flags.writeable = False
    memory.update_priorities(ids, errors)
    assert (ids.tolist(), errors.tolist()) == ([1, 2, 2], [-1.0, -2.0, 3.0])


@pytest.mark.parametrize(
    ("ids", "errors", "error", "message"),
    [
        ([1, 2], [1.0, float("nan")], ValueError, "must be finite and at most 1e[+]100, got nan for row 2"),
        ([1, 2], [float("-inf"), 1.0], ValueError, "must be finite .* got -inf for row 1; no priority"),
        ([1, 2], [1.0], ValueError, r"must be one number for each id, \(2,\), got \(1,\)"),
        ([1, 2], torch.ones(2, 1), ValueError, r"must be one number for each id, \(2,\), got \(2, 1\)"),
        ([1.0, 2.0], [1.0, 1.0], TypeError, r"ids must be integers, as batch\.ids has them, got float64"),
        ([1, N + 1], [2.0, 2.0], ValueError, "ids must be those of batches of this memory, below 41, got 41"),
        ([-1, 2], [2.0, 2.0], ValueError, "below 41, got -1; no priority was changed"),
    ],
)
def test_what_is_no_update_is_refused_whole(
    ids: Any, errors: Any, error: type[Exception], message: str
) -> None:
    memory = memory_of()
    before = leaves(memory)
    with pytest.raises(error, match=message):
        memory.update_priorities(ids, errors)
    assert leaves(memory) == before


def test_a_memory_without_priorities_says_so() -> None:
    for sampler in (Uniform(), Mixture({"online": 1})):
        memory = memory_of(sampler=sampler)
        with pytest.raises(
            ValueError,
            match=r"needs a sampler with priorities, but this one is .*Uniform.*sampler=Prioritized",
        ):
            memory.update_priorities([1], [1.0])


def test_an_empty_memory_says_so() -> None:
    with pytest.raises(EmptyMemoryError, match="the memory holds 0 transitions"):
        ReplayMemory(sampler=Prioritized()).update_priorities([1], [1.0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 1.1}, "alpha must be between 0 and 1, got 1.1"),
        ({"beta": -0.1}, "beta and beta_final must be between 0 and 1, got -0.1 and 1.0"),
        ({"beta_steps": 0}, "beta_steps must be at least 1, got 0"),
        ({"eps": 0}, "eps must be above 0 and below 1, got 0"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Prioritized(**arguments)


def test_alpha_cannot_be_changed_behind_the_trees_back() -> None:
    """B27."""
    sampler = Prioritized()
    assert sampler.alpha == 0.6
    with pytest.raises(AttributeError):
        sampler.alpha = 0.5  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("size", [5, 17, 41, 90])
def test_priorities_stay_with_their_rows_when_the_memory_is_resized(size: int) -> None:
    memory = memory_of(55)
    ids = memory.take(range(len(memory))).ids
    memory.update_priorities(ids, ids)
    before = leaves(memory)
    memory.memory_size = size
    assert leaves(memory) == {row: before[row] for row in sorted(before)[-size:]}
    memory.append(buffer_of(plain_episode(2)))
    assert max(leaves(memory).items())[1] == max(before.values())


class TestOnDisk:
    def test_a_bit_flipped_in_the_priorities_is_found(self, tmp_path: Path) -> None:
        memory_of().save(tmp_path)
        file = next(tmp_path.glob("*.priorities.npy"))
        octets = bytearray(file.read_bytes())
        octets[-3] ^= 1
        file.write_bytes(octets)
        with pytest.raises(DatasetError, match=r"priorities\.npy is damaged: its checksum differs"):
            ReplayMemory.load(tmp_path, sampler=Prioritized())

    @pytest.mark.parametrize("is_stored", [True, False])
    def test_verify_finds_it_too(self, is_stored: bool, tmp_path: Path) -> None:
        memory = memory_of(storage_path=tmp_path if is_stored else None)
        memory.close() if is_stored else memory.save(tmp_path)
        assert list(open_dataset(tmp_path).damage()) == []
        file = next(tmp_path.glob("*.priorities.npy"))
        file.write_bytes(file.read_bytes()[:-1])
        assert list(open_dataset(tmp_path).damage()) == [f"{file} is damaged: its checksum differs"]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"name": "../x"}, "is incomplete"),
            ({"n": 7}, "must hold 7 rows of float64"),
            ({"crc": None}, "the manifest of .* must say where priorities are, but: TypeError"),
        ],
    )
    def test_a_forged_entry_is_refused(self, change: dict[str, Any], message: str, tmp_path: Path) -> None:
        memory_of().save(tmp_path)
        body, _ = files.read_manifest(tmp_path)
        files.replace_manifest(tmp_path, body | {"priorities": body["priorities"] | change})
        with pytest.raises(DatasetError, match=message):
            ReplayMemory.load(tmp_path, sampler=Prioritized())

    def test_numbers_that_are_no_priorities_are_refused(self, tmp_path: Path) -> None:
        memory_of().save(tmp_path)
        body, _ = files.read_manifest(tmp_path)
        entry = body["priorities"]
        checksum = files.write_array(tmp_path / "forged.priorities.npy", np.full(entry["n"], np.nan))
        forged = entry | {"name": "forged", "crc": checksum}
        files.replace_manifest(tmp_path, body | {"priorities": forged})
        with pytest.raises(DatasetError, match="must hold finite numbers of at least 0"):
            ReplayMemory.load(tmp_path, sampler=Prioritized())

    def test_saving_again_leaves_one_file_of_priorities(self, tmp_path: Path) -> None:
        memory = memory_of(storage_path=tmp_path / "living")
        for i in range(3):
            memory.update_priorities([20 + i], [5.0])
            memory.save(tmp_path / "saved")
            memory.flush()
        for folder in ("living", "saved"):
            assert len(list((tmp_path / folder).glob("*.priorities.npy"))) == 1
        memory.close()

    def test_after_a_kill_rows_without_a_saved_priority_get_the_largest(self, tmp_path: Path) -> None:
        """What was set since the last flush is lost; no row is."""
        memory = memory_of(30, sampler=Prioritized(alpha=1, eps=0.5), storage_path=tmp_path)
        ids = np.arange(1, 31)
        memory.update_priorities(ids, ids)
        memory.flush()
        memory.update_priorities(ids, ids * 0)
        memory.append(buffer_of(stamped(plain_episode(14))))
        memory._state.abandon()
        with ReplayMemory(
            memory_size=N, storage_path=tmp_path, sampler=Prioritized(alpha=1, eps=0.5)
        ) as memory:
            found = leaves(memory)
        assert found == {row: row + 0.5 for row in range(6, 31)} | dict.fromkeys(range(32, 46), 30.5)

    def test_a_commit_between_flushes_keeps_the_priorities_of_the_last_one(self, tmp_path: Path) -> None:
        memory = memory_of(sampler=Prioritized(alpha=1, eps=0.5), storage_path=tmp_path)
        memory.update_priorities([N], [7.0])
        memory.flush()
        memory.append(
            buffer_of(stamped(plain_episode(2), worker="new"))
        )  # a new name: the manifest is written
        memory._state.abandon()
        with ReplayMemory(
            memory_size=N, storage_path=tmp_path, sampler=Prioritized(alpha=1, eps=0.5)
        ) as memory:
            assert leaves(memory)[N] == 7.5

    def test_a_copy_of_a_memory_that_lives_elsewhere_has_its_priorities(self, tmp_path: Path) -> None:
        with memory_of(sampler=Prioritized(alpha=1, eps=0.5), storage_path=tmp_path) as memory:
            memory.update_priorities([9], [7.0])
            memory.flush()
            copy = ReplayMemory.load(tmp_path, sampler=Prioritized(alpha=1, eps=0.5))
            assert leaves(copy) == leaves(memory)


def test_a_budget_of_bytes_counts_the_priorities() -> None:
    sizes: list[int] = []
    for sampler in (None, Prioritized()):
        memory = memory_of(5, sampler=sampler or Uniform(), memory_size="1MB")
        assert 990_000 < memory.stats().bytes_full <= 1_001_000
        sizes.append(memory.stats().capacity)
    assert sizes[1] < sizes[0]
