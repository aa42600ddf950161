"""Kept sources, by example; the property tests compare them with plain loops."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from makers import buffer_of, plain_episode, stamped, with_crc
from tmrl.datasets import open_dataset
from tmrl.errors import DatasetError, EmptyMemoryError
from tmrl.inspection.facts import read_facts
from tmrl.memory import Epoch, FrameStack, Mixture, NStep, Prioritized, ReplayMemory, Sequence, Uniform
from tmrl.transition import Sample

HALVES = {"demo": 0.5, "online": 0.5}


def memory_of(keep: int = 20, samplers: Any = None, **kwargs: Any) -> ReplayMemory:
    sampler = Mixture(HALVES, samplers, keep={"demo": keep})
    return ReplayMemory(**{"memory_size": 50, "batch_size": 8, "seed": 0, "sampler": sampler, **kwargs})


def fill(memory: ReplayMemory, n_online: int = 20, **kwargs: Any) -> ReplayMemory:
    """Two demonstrations of six steps, then episodes of six steps online."""
    for i in range(2):
        memory.append(buffer_of(stamped(plain_episode(6, 100 * i), "ann", 7 * i, i)), source="demo")
    for i in range(n_online):
        memory.append(buffer_of(stamped(plain_episode(6, 1000 + 10 * i), "bob", 7 * i, i)))
    return memory


def rewards(memory: ReplayMemory) -> list[int]:
    return memory.take(range(len(memory))).rew.int().tolist()


def online_rewards(first: int, stop: int) -> list[int]:
    return [1000 + 10 * i + k for i in range(first, stop) for k in range(1, 7)]


DEMO = [*range(1, 7), *range(101, 107)]


def test_online_data_never_evict_a_kept_source() -> None:
    memory = fill(memory_of())
    # Of 31 rows, four whole episodes of six steps take 28; two steps are left of the one before.
    assert rewards(memory)[-12:] == DEMO
    assert rewards(memory)[:-12] == [1155, 1156, *online_rewards(16, 20)]
    assert memory.memory_size == 50
    assert len(memory) == memory.stats().transitions <= 50


def test_a_kept_source_evicts_only_itself() -> None:
    memory = memory_of(keep=10)
    fill(memory, 3)
    for i in range(9):
        memory.append(buffer_of(stamped(plain_episode(6, 200 + 10 * i), "eve", 7 * i, i)), source="demo")
    found = rewards(memory)
    assert found == [*online_rewards(0, 3), 274, 275, 276, *range(281, 287)]


def test_a_batch_has_so_much_of_each_and_names_its_rows() -> None:
    memory = fill(memory_of())
    for _ in range(20):
        batch = memory.sample()
        assert set(batch.rew[:4].int().tolist()) <= set(DEMO)
        assert (batch.rew[4:] > 1000).all()
        assert torch.equal(batch.prev_obs.squeeze(-1) + 1, batch.rew)
        assert torch.equal(batch.new_obs.squeeze(-1), batch.rew)
        assert torch.equal(batch.new_act.squeeze(-1), -batch.rew)
    everything = memory.take(range(len(memory)))
    assert len(set(everything.ids.tolist())) == len(memory)
    of_id = dict(zip(everything.ids.tolist(), everything.rew.tolist(), strict=True))
    assert [of_id[row] for row in batch.ids.tolist()] == batch.rew.tolist()
    assert memory.get_transition(-1)[2] == 106
    assert float(memory[-12][2]) == 1
    assert set(memory.sample_indices()) <= set(range(len(memory)))


def test_info_names_its_rows_in_every_ring() -> None:
    kept = {"window": Sequence(3), "info_keys": ("state",)}
    memory = memory_of(**kept)
    for worker, source in (("alice", "online"), ("eve", "demo")):
        episode = stamped(plain_episode(5), worker)
        for sample in episode:
            sample[5]["state"] = 0.0
        memory.append(buffer_of(episode), source=source)
    everything = memory.take(range(len(memory)))
    rows = everything.info_ids
    assert rows[:, 1].tolist() == everything.ids.tolist()
    assert (rows[:, 1:] < 0).tolist() == (everything.mask == 0).tolist()
    memory.write(rows[rows >= 0], state=rows[rows >= 0].astype(float))
    after = memory.take(range(len(memory))).info["state"].numpy()
    assert (after[rows >= 0] == rows[rows >= 0]).all()


def test_ids_go_on_naming_the_same_rows() -> None:
    memory = fill(memory_of(), 3)
    before = dict(zip(memory.take(range(len(memory))).ids.tolist(), rewards(memory), strict=True))
    memory.append(buffer_of(stamped(plain_episode(6, 2000), "eve")))
    memory.memory_size = 60
    after = dict(zip(memory.take(range(len(memory))).ids.tolist(), rewards(memory), strict=True))
    assert before.items() <= after.items()


def test_each_source_has_its_sampler() -> None:
    epoch = Epoch()
    memory = fill(memory_of(samplers={"demo": epoch, "online": Prioritized(alpha=1)}, batch_size=24))
    batch = memory.sample()
    assert sorted(batch.rew[:12].int().tolist()) == DEMO
    memory.update_priorities(batch.ids, np.where(batch.ids == batch.ids[12], 1e9, 0.0))
    batch = memory.sample()
    assert epoch.epoch == 1
    assert len(set(batch.ids[12:].tolist())) == 1
    with pytest.raises(
        ValueError, match=r"ids must be those of batches of this memory, below \d+, got 99998"
    ):
        memory.update_priorities([int(batch.ids[0]), 99998], [1.0, 1.0])


def test_priorities_of_a_kept_source_are_kept_beside_it(tmp_path: Path) -> None:
    def samplers() -> Any:
        return {"demo": Prioritized(alpha=1), "online": Uniform()}

    memory = fill(memory_of(samplers=samplers()), 3)
    ids = memory.take(range(len(memory))).ids
    memory.update_priorities(ids, np.where(ids == ids[-1], 1e9, 0.0))
    memory.save(tmp_path)
    loaded = ReplayMemory.load(tmp_path, sampler=Mixture(HALVES, samplers(), keep={"demo": 20}))
    for each in (memory, loaded):
        assert set(each.sample().ids[:4].tolist()) == {int(ids[-1])}
    fill(memory, 30)  # twice the same steps: all of them late
    assert memory.stats().duplicates == 14 + 21


def test_a_loaded_memory_goes_on_alike(tmp_path: Path) -> None:
    memory = fill(memory_of(samplers={"online": Prioritized()}))
    memory.sample()
    memory.save(tmp_path)
    memory.append(buffer_of(stamped(plain_episode(6, 2000), "bob", 140, 20)))
    memory.write(memory.take([len(memory) - 1]).ids, rew=np.array([77.0]))
    memory.save(tmp_path)
    loaded = ReplayMemory.load(
        tmp_path, sampler=Mixture(HALVES, {"online": Prioritized()}, keep={"demo": 20})
    )
    assert rewards(loaded) == rewards(memory)
    assert 77 in rewards(loaded)
    for i in range(5):
        for each in (memory, loaded):
            each.append(buffer_of(stamped(plain_episode(6, 3000), "eve", 7 * i, i)), source="demo")
        first, second = memory.sample(), loaded.sample()
        assert first.ids.tolist() == second.ids.tolist()
        assert first.rew.tolist() == second.rew.tolist()
        for each in (memory, loaded):
            each.update_priorities(first.ids, first.rew)
    assert loaded.stats().sources == memory.stats().sources


def test_sizes_may_change_with_a_load_but_not_the_sources(tmp_path: Path) -> None:
    fill(memory_of(), 4).save(tmp_path)
    loaded = ReplayMemory.load(tmp_path, memory_size=40, sampler=Mixture(HALVES, keep={"demo": 6}))
    assert rewards(loaded)[-6:] == DEMO[-6:]
    with pytest.raises(DatasetError, match=r"kept, \{'demo': 20\}, got \{\}; make it with the same sampler"):
        ReplayMemory.load(tmp_path)
    dataset = open_dataset(tmp_path)
    assert sum(dataset.rows_per_episode) == 6 * 7
    assert not list(dataset.damage())
    other = ReplayMemory()
    other.append_dataset(tmp_path)
    assert sorted(rewards(other)) == sorted(rewards(memory_of_saved(tmp_path)))


def test_an_episode_whose_first_rows_were_evicted_is_not_joined_to_one_of_another_ring(
    tmp_path: Path,
) -> None:
    memory = fill(memory_of(keep=10), 3)
    for i in range(9):
        memory.append(buffer_of(stamped(plain_episode(6, 200 + 10 * i), "eve", 7 * i, i)), source="demo")
    memory.save(tmp_path)
    episodes = [episode.rows["rew"].astype(int).tolist() for episode in open_dataset(tmp_path).episodes()]
    assert episodes[-2:] == [[273, 274, 275, 276], list(range(280, 287))]
    assert [len(episode) for episode in episodes[:-2]] == [7, 7, 7]


def test_a_dataset_keeps_the_labels_that_it_has(tmp_path: Path) -> None:
    recorded = fill(ReplayMemory(), 3)
    recorded.save(tmp_path)
    memory = memory_of(dataset_path=tmp_path)
    assert rewards(memory) == [*online_rewards(0, 3), *DEMO]


def test_a_restore_replaces_what_every_ring_holds(tmp_path: Path) -> None:
    saved, memory = fill(memory_of(), 4), fill(memory_of(), 9)
    memory.sample()
    saved.sample()
    saved.save(tmp_path)
    memory.restore(tmp_path)
    assert rewards(memory) == rewards(saved)
    small = memory.state_dict()
    batches = [memory.sample().ids.tolist() for _ in range(3)]
    assert batches == [saved.sample().ids.tolist() for _ in range(3)]
    memory.load_state_dict(small)
    assert batches == [memory.sample().ids.tolist() for _ in range(3)]


def test_batches_that_are_drawn_ahead_are_the_same() -> None:
    memories = [fill(memory_of(prefetch=n, samplers={"demo": Prioritized()})) for n in (0, 2)]
    for i in range(6):
        first, second = (memory.sample() for memory in memories)
        assert first.ids.tolist() == second.ids.tolist()
        for memory in memories:
            memory.update_priorities(first.ids, first.rew)
            memory.append(buffer_of(stamped(plain_episode(3, 300), "eve", 4 * i, i)), source="demo")
    for memory in memories:
        memory.close()


def test_a_memory_that_is_saved_empty_keeps_its_sources(tmp_path: Path) -> None:
    memory_of().save(tmp_path)
    memory = fill(memory_of_saved(tmp_path))
    assert rewards(memory)[-12:] == DEMO


def test_an_inspection_tells_no_ages_across_rings(tmp_path: Path) -> None:
    fill(memory_of()).save(tmp_path)
    facts = read_facts(tmp_path, open_dataset(tmp_path))
    assert facts.row_ids is None
    assert facts.capacity == 50
    assert len(facts.arrivals()[0]) == 0


def memory_of_saved(folder: Path) -> ReplayMemory:
    return ReplayMemory.load(folder, sampler=Mixture(HALVES, keep={"demo": 20}))


def test_a_dataset_fills_the_ring_of_its_label(tmp_path: Path) -> None:
    recorded = ReplayMemory()
    for i in range(9):
        recorded.append(buffer_of(stamped(plain_episode(6, 10 * i), "ann", 7 * i, i)))
    recorded.save(tmp_path)
    memory = memory_of(keep=20)
    memory.append_dataset(tmp_path, source="demo")
    assert rewards(memory) == [10 * i + k for i in (6, 7, 8) for k in range(1, 7)]
    memory.append(buffer_of(stamped(plain_episode(6, 1000), "bob")))
    assert len(memory.sample().rew) == 8


def test_an_episode_that_changes_its_source_is_cut_there() -> None:
    episode = stamped(plain_episode(6))
    labels = ["online"] * 3 + ["demo"] * 2 + ["online"] * 2
    labelled = [
        Sample(sample, sample.stamp._replace(source=label))
        for sample, label in zip(episode, labels, strict=True)
    ]
    memory = memory_of()
    memory.append(buffer_of(labelled))
    assert rewards(memory) == [1, 2, 6, 4]
    assert memory.stats().gaps == 0
    memory.append(buffer_of(labelled))
    assert memory.stats().duplicates == 7
    waiting = memory_of(window=NStep(3, 1.0, wait=True))
    for sample in labelled:
        waiting.append(buffer_of([sample]))
    assert sorted(waiting.take(range(len(waiting))).n_steps.tolist()) == [1, 1, 1, 2]


def test_checksums_are_compared_in_every_ring() -> None:
    memory = memory_of(crc_debug=True, window=FrameStack(2))
    for i in range(12):
        memory.append(buffer_of(with_crc(stamped(plain_episode(5, 10 * i), "bob", 6 * i, i))))
    memory.append(buffer_of(with_crc(stamped(plain_episode(5, 500), "ann"))), source="demo")
    memory.take(range(len(memory)))
    checked = memory.crc_checked
    assert checked >= len(memory)
    memory.sample()
    assert memory.crc_checked > checked


def test_statistics_cover_all_rings() -> None:
    memory = fill(memory_of())
    stats = memory.stats()
    assert stats.capacity == 50
    assert stats.appended == 22 * 7
    assert stats.rows == stats.appended - stats.evicted == 31 + 14
    assert stats.sources["demo"].evicted == 0
    memory.sample()
    assert 0 <= memory.stats().age_rows_p50 <= 31
    assert memory.stats().age_s_p50 >= 0
    assert stats.bytes_now <= stats.bytes_full


def test_a_preprocessor_of_single_transitions_sees_all_rings() -> None:
    memory = fill(memory_of(sample_preprocessor=lambda *six: six))
    batch = memory.sample()
    assert set(batch.rew[:4].int().tolist()) <= set(DEMO)
    assert torch.equal(batch.new_obs.squeeze(-1), batch.rew.float())


def test_a_size_in_bytes_is_shared() -> None:
    memory = fill(memory_of(keep=12, memory_size="4kB"))
    assert memory.stats().bytes_full <= 4_000
    assert rewards(memory)[-11:] == DEMO[-11:]


def test_an_empty_source_is_named() -> None:
    memory = memory_of()
    memory.append(buffer_of(plain_episode(3)), source="demo")
    with pytest.raises(EmptyMemoryError, match="cannot draw from source 'online'"):
        memory.sample()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mixture({"demo": 1}, keep={"expert": 5}), r"keep must be for .* \(demo\), got expert"),
        (
            lambda: Mixture({"demo": 1}, keep={"demo": 0}),
            r"be at least 1 transition of each, got .*'demo': 0",
        ),
        (lambda: Mixture({"": 1}, keep={"": 5}), "keep must name sources"),
        (lambda: memory_of(keep=50), r"memory_size must be above .* \(demo: 50\), got 50; choose a larger"),
        (lambda: setattr(memory_of(), "memory_size", 20), r"above what is kept of sources \(demo: 20\)"),
    ],
)
def test_what_cannot_be_kept_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
