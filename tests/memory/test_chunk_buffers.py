"""A memory that is fed what came over the line is the memory that is fed the Buffers, bit by bit."""

from typing import Any

import numpy as np
import optree
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from histories import HistoryWorker, Shape, Stream, shapes
from machines import ENDINGS, FATES, WORKERS, FakeWorker
from makers import buffer_of, plain_episode, stamped, step, with_crc
from nests import SampleMaker, is_identical, makers
from tmrl.chunk_buffer import ChunkBuffer
from tmrl.compressor import Compressor
from tmrl.errors import BadSampleError, IntegrityError, SchemaError
from tmrl.history import History, Stacked
from tmrl.memory import ReplayMemory, TorchMemory
from tmrl.networking import Buffer
from tmrl.networking.parcel import Encoder, Wishes, decode
from tmrl.rows import take_rows
from tmrl.transition import Sample


def sent(samples: list[Any], encoder: Encoder) -> ChunkBuffer:
    return decode(b"".join(encoder.encode(buffer_of(samples))))


def contents(memory: ReplayMemory) -> Any:
    """All that a memory holds and counts, but for the times."""
    store = memory._store
    if store is None:
        return memory._state.intake.state(), memory.stats().refused
    slots = store.ring.held_slots()
    state = memory._state.intake.state(), memory._state.tally.state(), store.streams.state()
    rows = take_rows(store.ring.rows, slots).tobytes(), store.ring.back[slots].tobytes()
    pairs = store.draw(np.arange(len(memory))).pairs.tobytes()
    return *state, rows, pairs, len(memory), store.schema.row_dtype


def assert_never_unpacked(buffer: ChunkBuffer) -> None:
    assert buffer.row_parts() is not None


plans = st.lists(
    st.tuples(
        st.lists(st.tuples(st.sampled_from(WORKERS), ENDINGS, FATES), min_size=1, max_size=12),
        st.sampled_from(["online", "demo"]),
        st.booleans(),
        st.integers(1, 3),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=100, deadline=None)
@given(
    makers(), plans, st.sampled_from([None, Wishes(), Wishes(("n",))]), st.sampled_from([(), ("obs", "rew")])
)
def test_memories_are_the_same_whatever_way_the_samples_came(
    make: SampleMaker, plan: Any, wishes: Wishes | None, compress: tuple[str, ...]
) -> None:
    """Streams interleave; samples are lost, late, doubled and unstamped; Buffers are merged."""
    keys = ("n",) if wishes is not None and wishes.info_keys else ()
    memories = [ReplayMemory(memory_size=40, seed=0, info_keys=keys, finite=()) for _ in range(2)]
    workers = {name: FakeWorker(name, make) for name in WORKERS}
    encoder = Encoder(wishes, compress=compress)
    late: list[Any] = []
    for lot, source, continues, n_parcels in plan:
        samples: list[Any] = []
        for name, ending, fate in lot:
            if fate == "restart":
                workers[name].restart()
            sample = workers[name].produce(ending)
            if fate == "late":
                late.append(sample)
            elif fate == "unstamp":
                samples.append(tuple(sample))
            elif fate != "drop":
                samples += [sample] * (2 if fate == "twice" else 1)
        if continues:
            samples, late = samples + late, []
        merged = ChunkBuffer()
        for lot_of_samples in np.array_split(np.arange(len(samples)), n_parcels):
            merged += sent([samples[i] for i in lot_of_samples], encoder)
        memories[0].append(buffer_of(samples), source=source, continues=continues)
        memories[1].append(merged, source=source, continues=continues)
        assert contents(memories[0]) == contents(memories[1])


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["ann", "bob"]), st.integers(1, 5)), min_size=1, max_size=6),
    st.integers(0, 999),
    st.booleans(),
    st.sampled_from([(), ("obs", "act")]),
)
def test_memories_in_crc_mode_are_the_same_too(
    episodes: Any, seed: int, as_rows: bool, compress: tuple[str, ...]
) -> None:
    rng = np.random.default_rng(seed)
    queues: dict[str, list[Any]] = {"ann": [], "bob": []}
    for number, (worker, length) in enumerate(episodes):
        queue = queues[worker]
        queue += with_crc(stamped(plain_episode(length), worker, len(queue), number))
    memories = [ReplayMemory(memory_size=20, seed=0, crc_debug=True) for _ in range(2)]
    encoder = Encoder(Wishes(with_crc=True) if as_rows else None, compress=compress)
    while any(queues.values()):
        lot = [queue.pop(0) for queue in queues.values() for _ in range(rng.integers(5)) if queue]
        memories[0].append(buffer_of(lot))
        memories[1].append(sent(lot, encoder))
        assert contents(memories[0]) == contents(memories[1])
    batches = [memory.sample() for memory in memories]
    assert all(part.equal(other) for part, other in zip(*batches, strict=True))
    assert memories[1].crc_checked == 256


def test_rows_are_taken_in_without_unpacking_and_decide_the_layout() -> None:
    memory, encoder = ReplayMemory(seed=0), Encoder(Wishes())
    for first in (0, 6):
        buffer = sent(stamped(plain_episode(5), first_step=first, episode=first), encoder)
        memory.append(buffer)
        assert_never_unpacked(buffer)
    assert len(memory) == 10
    assert memory.get_transition(9)[3] == [5]


@pytest.mark.parametrize("continues", [False, True])
def test_plain_rows_go_on_where_the_last_ones_ended_only_if_told(continues: bool) -> None:
    memory, encoder = ReplayMemory(seed=0), Encoder(Wishes())
    episode = plain_episode(5)
    for samples in (episode[:3], episode[3:]):
        buffer = sent(samples, encoder)
        memory.append(buffer, continues=continues)
        assert_never_unpacked(buffer)
    assert len(memory) == (5 if continues else 4)


def test_resets_that_came_first_wait_for_the_rows() -> None:
    memory, encoder = ReplayMemory(seed=0), Encoder(Wishes())
    episode = stamped(plain_episode(3))
    memory.append(sent(episode[:1], encoder))
    assert memory.schema is None
    memory.append(sent(episode[1:], encoder))
    assert len(memory) == 3


def test_entries_of_info_that_are_not_kept_are_left_out() -> None:
    samples = [step(np.ones(2), info={"a": i, "b": float(i)}) for i in range(4)]
    memories = [ReplayMemory(seed=0, info_keys=("b",)) for _ in range(2)]
    for _ in range(2):
        buffer = sent(samples, Encoder(Wishes(("a", "b"))))
        memories[0].append(buffer_of(samples))
        memories[1].append(buffer)
        assert_never_unpacked(buffer)
    assert contents(memories[0]) == contents(memories[1])


def test_what_is_compared_with_checksums_is_what_arrived() -> None:
    memory, encoder = ReplayMemory(seed=0, crc_debug=True), Encoder(Wishes(with_crc=True))
    buffer = sent(with_crc(stamped(plain_episode(5))), encoder)
    memory.append(buffer)
    assert_never_unpacked(buffer)
    memory.sample()
    assert memory.crc_checked == 256
    plain = ReplayMemory(seed=0)  # checksums that nobody wants are left out
    plain.append(buffer)
    assert plain.schema is not None
    assert not plain.schema.with_crc
    damaged = decode(b"".join(encoder.encode(buffer_of(with_crc(stamped(plain_episode(5)))))))
    parts = damaged.row_parts() or []
    rows = parts[0].chunk.rows.copy()
    rows["obs"] += 1
    memory = ReplayMemory(seed=0, crc_debug=True)
    memory.append(ChunkBuffer([_with_rows(parts[0], rows)]))
    with pytest.raises(IntegrityError, match="worker 'ann'"):
        memory.sample()


def _with_rows(part: Any, rows: Any) -> Any:
    from dataclasses import replace

    return replace(part, chunk=replace(part.chunk, rows=rows))


BAD = [
    ([step(np.ones(2), rew=np.nan)], {}, "rew: expected finite numbers"),
    ([step(np.ones(2), act=np.array([np.inf]))], {}, "act: expected finite numbers"),
    ([step(np.array([np.nan, 1.0]))], {"finite": ("obs",)}, "obs: expected finite numbers"),
    ([step(np.ones(3))], {}, r"obs: expected float64 of shape \(2,\).*found float64 of shape \(3,\)"),
    ([step(np.ones(2, np.float32))], {}, "no cast is made unasked"),
    ([step((np.ones(2),))], {}, "obs: expected"),
    ([step(np.ones(2), info={})], {"info_keys": ("a",)}, "an entry 'a', which info_keys names"),
    ([step(np.ones(2))], {"crc_debug": True}, "its worker was not in CRC mode"),
]


@pytest.mark.parametrize(("samples", "settings", "message"), BAD)
def test_what_is_refused_of_samples_is_refused_of_rows_in_the_same_words(
    samples: list[Any], settings: dict[str, Any], message: str
) -> None:
    spaces_given = {
        "observation_space": spaces.Box(-1, 1, (2,), np.float64),
        "action_space": spaces.Box(-1, 1, samples[0][0].shape, samples[0][0].dtype),
    }
    good = [step(np.ones(2), act=np.zeros_like(samples[0][0]), info={"a": 1.0})]
    memories = [ReplayMemory(seed=0, **{**spaces_given, **settings}) for _ in range(2)]
    if "crc_debug" not in settings:
        for memory in memories:
            memory.append(buffer_of(good * 3))
    before = contents(memories[1])[:1]
    told: list[str] = []
    for memory, buffer in zip(
        memories, (buffer_of(good + samples), sent(good + samples, Encoder(Wishes()))), strict=True
    ):
        with pytest.raises((BadSampleError, IntegrityError), match=message) as error:
            memory.append(buffer)
        told.append(str(error.value))
    assert told[0].split("found")[0] == told[1].split("found")[0]
    assert memories[0].stats().refused == memories[1].stats().refused == 2
    assert contents(memories[1])[:1] == before
    assert len(memories[0]) == len(memories[1])


def test_one_bad_part_refuses_all() -> None:
    memory, encoder = ReplayMemory(seed=0), Encoder(Wishes())
    memory.append(sent(stamped(plain_episode(2)), encoder))
    before = contents(memory)[3:]
    merged = sent(stamped(plain_episode(2), "bob"), encoder)
    bad = [Sample((*s[:2], np.nan, *s[3:]), s.stamp) for s in stamped(plain_episode(2), "eve")]
    merged += sent(bad, encoder)
    with pytest.raises(BadSampleError, match="worker 'eve', sample 3 of 6: rew"):
        memory.append(merged)
    assert contents(memory)[3:] == before
    assert memory.stats().refused == 6


def test_rows_that_no_memory_can_decide_by_are_refused_as_their_samples_are() -> None:
    memory = ReplayMemory(seed=0, info_keys=("x",))
    with pytest.raises(ValueError, match="no sample of the first Buffer has 'x'"):
        memory.append(sent([step(1.0)] * 2, Encoder(Wishes())))
    with pytest.raises(SchemaError, match="obs is a str"):
        memory.append(sent([step("text", info={"x": 1})], Encoder(Wishes(("x",)))))
    assert memory.schema is None


def test_namedtuples_are_told_apart_by_their_fields_alone() -> None:
    from nests import Pose

    memory, encoder = ReplayMemory(seed=0), Encoder(Wishes())
    memory.append(buffer_of([step(Pose(1.0, 2.0))] * 3))
    buffer = sent([step(Pose(1.0, 2.0))] * 3, encoder)
    memory.append(buffer)
    assert_never_unpacked(buffer)
    assert type(memory.get_transition(3)[0]) is Pose


def test_compressed_observations_are_rebuilt() -> None:
    history = History(Stacked(3))
    compress, frames = Compressor(history), [np.zeros(2, np.float32)] * 3
    whole: list[Any] = []
    kept: list[Any] = []
    for sample in stamped(plain_episode(11)):
        frames = [sample[1]] * 3 if sample[0] is None else [*frames[1:], sample[1]]
        whole.append(np.stack(frames))
        values = (sample[0], whole[-1], *sample[2:])
        kept.append(Sample(compress(values, sample.stamp), sample.stamp))
    memories = [ReplayMemory(seed=0, history=history) for _ in range(2)]
    buffer = sent(kept, Encoder(Wishes()))
    memories[0].append(buffer_of(kept))
    memories[1].append(buffer)
    assert_never_unpacked(buffer)
    assert contents(memories[0]) == contents(memories[1])
    for i in range(11):
        assert memories[1].get_transition(i)[3].tobytes() == whole[i + 1].tobytes()


@settings(max_examples=60, deadline=None)
@given(
    shapes,
    st.lists(st.tuples(st.sampled_from(WORKERS), ENDINGS), min_size=8, max_size=40),
    st.sampled_from([(None, False), (None, True), (Wishes(), False), (Wishes(with_crc=True), True)]),
)
def test_memories_that_rebuild_histories_are_the_same_too(
    shape: Shape, plan: list[tuple[str, str]], mode: tuple[Wishes | None, bool]
) -> None:
    wishes, crc_debug = mode
    workers = {name: HistoryWorker(name, Stream(shape, seed)) for seed, name in enumerate(WORKERS)}
    memories = [
        ReplayMemory(memory_size=40, seed=0, history=shape.history, crc_debug=crc_debug) for _ in range(2)
    ]
    encoder = Encoder(wishes)
    for start in range(0, len(plan), 5):
        produced = [workers[name].produce(ending) for name, ending in plan[start : start + 5]]
        samples = [sample.compressed for sample in produced]  # pyright: ignore[reportAttributeAccessIssue]
        memories[0].append(buffer_of(samples))
        memories[1].append(sent(samples, encoder))
        assert contents(memories[0]) == contents(memories[1])
    if len(memories[0]):
        leaves = [optree.tree_leaves(tuple(memory.sample())) for memory in memories]
        assert all(is_identical(one.numpy(), other.numpy()) for one, other in zip(*leaves, strict=True))
        assert memories[1].crc_checked == (256 if crc_debug else 0)


class ListMemory(TorchMemory):
    """A user's memory: all samples in a list."""

    def __init__(self) -> None:
        self.samples: list[Any] = []
        super().__init__("cpu", batch_size=2)

    def append_buffer(self, buffer: Buffer) -> None:
        self.samples += buffer.memory

    def __len__(self) -> int:
        return max(0, len(self.samples) - 1)

    def get_transition(self, item: int) -> Any:
        before, after = self.samples[item : item + 2]
        return before[1], after[0], after[2], after[1], after[3], after[4], after[5]


@pytest.mark.parametrize("wishes", [None, Wishes()])
def test_a_memory_of_a_users_own_works_unchanged(wishes: Wishes | None) -> None:
    memory = ListMemory()
    memory.append(sent(stamped(plain_episode(3)), Encoder(wishes)))
    assert len(memory) == 3
    assert memory.get_transition(1)[3] == [2]
    assert tuple(memory.sample()[0].shape) == (2, 1)
