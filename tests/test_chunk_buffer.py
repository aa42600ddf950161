"""A Buffer that arrived as rows is a Buffer for whoever treats it as one."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from makers import buffer_of, parcel_of, plain_episode, stamped, step
from tmrl.chunk_buffer import ChunkBuffer, RowPart
from tmrl.networking import Buffer
from tmrl.networking.parcel import Wishes, decode
from tmrl.transition import EpisodeRecord

ROWS = Wishes()


def received(samples: list[Any], wishes: Wishes | None = ROWS) -> ChunkBuffer:
    return decode(parcel_of(buffer_of(samples), wishes))


def numbers(buffer: Buffer) -> list[float]:
    return [float(sample[1][0]) for sample in buffer.memory]


def test_samples_come_back_as_they_were_but_for_what_rows_do_not_keep() -> None:
    sent = stamped(plain_episode(3), "ann", first_step=5, episode=2)
    found = received(sent)
    assert len(found) == 4
    for a, b in zip(sent, found.memory, strict=True):
        assert a.stamp == b.stamp
        assert (a[0] is None) == (b[0] is None)
        assert (a[1].dtype, a[1].tobytes()) == (b[1].dtype, b[1].tobytes())
        assert (type(b[2]), b[2], b[3], b[4], b[5]) == (np.float32, a[2], a[3], a[4], {})
        assert type(b[3]) is bool


def test_labels_come_back() -> None:
    sent = [step(np.ones(1), info={"source": label}) for label in ("demo", "demo", "online")]
    assert [sample[5] for sample in received(sent).memory] == [{"source": label} for _, _, label in
        [("", "", "demo"), ("", "", "demo"), ("", "", "online")]]  # fmt: skip
    relabelled = [type(s)(s, s.stamp._replace(source="demo")) for s in stamped(plain_episode(2))]
    assert [sample.stamp.source for sample in received(relabelled).memory] == ["demo"] * 3


def test_bfloat16_comes_back_as_tensors_and_empty_nests_as_nests() -> None:
    sent = [step({"x": torch.arange(3).to(torch.bfloat16) + i, "none": ()}, act=()) for i in range(2)]
    for a, b in zip(sent, received(sent).memory, strict=True):
        assert b[1]["x"].dtype == torch.bfloat16
        assert b[1]["x"].equal(a[1]["x"])
        assert (b[1]["none"], b[0]) == ((), ())


def test_merging_many_costs_in_proportion_to_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [received(stamped(plain_episode(2), first_step=3 * i, episode=i)) for i in range(200)]
    n_asked = 0
    length = RowPart.__len__

    def counted(part: RowPart) -> int:
        nonlocal n_asked
        n_asked += 1
        return length(part)

    monkeypatch.setattr(RowPart, "__len__", counted)
    merged = ChunkBuffer(maxlen=300)
    for part in parts:
        merged += part
        assert len(merged) <= 300
    assert n_asked < 10 * len(parts)
    monkeypatch.undo()
    assert len(merged) == sum(map(len, merged.parts)) == 300
    assert len(merged.memory) == 300


def test_once_read_the_list_is_the_truth() -> None:
    buffer = received(plain_episode(4))
    assert len(buffer.memory) == len(buffer) == 5
    buffer.memory.append("more")
    assert len(buffer) == 6
    assert buffer.memory[-1] == "more"
    assert buffer.row_parts() is None
    buffer.memory = buffer.memory[1:3]
    assert len(buffer) == 2
    buffer.append_sample("another")
    assert buffer.memory[2] == "another"
    del buffer.memory[:2]
    assert repr(buffer) == "ChunkBuffer(1 samples, 0 episodes, maxlen=500000)"


def test_what_is_unpacked_may_be_written_to() -> None:
    buffer = received(plain_episode(2))
    (part,) = buffer.row_parts() or []
    before = part.chunk.rows.tobytes()
    for sample in buffer.memory:
        sample[1][:] = -7
    assert part.chunk.rows.tobytes() == before


@pytest.mark.parametrize("kinds", ["cc", "cb", "bc", "cs", "sc", "uc", "cu"])
def test_buffers_of_all_kinds_are_added(kinds: str) -> None:
    """c: rows, s: samples that arrived, u: rows that were read, b: a plain Buffer."""

    def make(kind: str, first: int) -> Buffer:
        samples = plain_episode(2, first=first)
        buffer = buffer_of(samples) if kind == "b" else received(samples, None if kind == "s" else Wishes())
        if kind == "u":
            assert buffer.memory
        buffer.record_episode(EpisodeRecord("ann", float(first), first, False))
        buffer.dropped = 1
        return buffer

    left, right = make(kinds[0], 10), make(kinds[1], 20)
    left += right
    assert len(left) == 6
    assert numbers(left) == [10, 11, 12, 20, 21, 22]
    assert [record.length for record in left.episodes] == [10, 20]
    assert (left.stat_train_return, left.stat_train_steps, left.dropped) == (20.0, 20, 2)
    assert numbers(right) == [20, 21, 22]
    left.memory.append(left.memory[0])
    assert len(right) == 3


def test_an_empty_buffer_adds_nothing() -> None:
    buffer, empty = received(plain_episode(2)), Buffer()
    empty.stat_train_return = 9.0
    buffer += empty
    buffer += ChunkBuffer()
    assert (len(buffer), buffer.stat_train_return, buffer.is_merged) == (3, 0.0, False)
    fresh = ChunkBuffer()
    fresh += buffer
    assert fresh.row_parts() == buffer.row_parts() != None  # noqa: E711


@pytest.mark.parametrize("is_read", [False, True])
def test_the_oldest_are_dropped_beyond_maxlen(is_read: bool, caplog: pytest.LogCaptureFixture) -> None:
    buffer = ChunkBuffer(maxlen=5)
    for first in (0, 10, 20):
        buffer += received(stamped(plain_episode(2, first=first), first_step=first))
        if is_read:
            assert buffer.memory
    assert len(buffer) == 5
    assert buffer.dropped == 4
    assert numbers(buffer) == [11, 12, 20, 21, 22]
    assert [sample.stamp.step for sample in buffer.memory] == [11, 12, 20, 21, 22]
    assert caplog.text.count("the oldest are dropped") == 1


def test_plain_samples_beside_rows_are_dropped_too() -> None:
    buffer = ChunkBuffer(maxlen=4)
    buffer += received(plain_episode(2), None)
    buffer += received(plain_episode(2, first=10))
    assert numbers(buffer) == [2, 10, 11, 12]


def test_rows_tell_all_unless_they_are_plain_and_not_alone() -> None:
    ann, bob = (stamped(plain_episode(2), name) for name in ("ann", "bob"))
    buffer = received(ann[:2])
    buffer += received(bob)
    buffer += received(ann[2:])
    parts = buffer.row_parts() or []
    assert [(part.chunk.stream.worker, len(part)) for part in parts] == [("ann", 2), ("ann", 1), ("bob", 3)]
    buffer += received(plain_episode(2))
    assert buffer.row_parts() is None
    assert all(isinstance(part, RowPart) for part in buffer.parts)


def test_clear_leaves_an_empty_buffer() -> None:
    buffer = received(plain_episode(2))
    buffer.stat_train_return = 3.0
    buffer.clear()
    assert (len(buffer), buffer.memory, buffer.stat_train_return) == (0, [], 3.0)


def test_a_copy_is_independent() -> None:
    buffer = received(plain_episode(2))
    for twin in (copy.deepcopy(buffer), pickle.loads(pickle.dumps(buffer))):
        twin.memory.append("x")
        assert len(buffer) == 3
        assert numbers(buffer) == [0, 1, 2]
