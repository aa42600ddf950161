"""Parcels: what goes in comes out bit by bit, and nothing that a peer sends does anything but that."""

import math
import struct
from collections import OrderedDict, defaultdict, namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from makers import buffer_of, parcel_of, plain_episode, stamped, step, with_crc
from nests import Pose, SampleMaker, makers
from tmrl.chunk_buffer import ChunkBuffer, RowPart
from tmrl.errors import BadSampleError, ParcelError
from tmrl.networking import Buffer
from tmrl.networking.parcel import Encoder, Wishes, decode, summary
from tmrl.transition import EpisodeRecord, Sample, Stamp


def travelled(samples: list[Any], *args: Any, **kwargs: Any) -> list[Any]:
    return decode(parcel_of(buffer_of(samples), *args, **kwargs)).memory


def assert_exact(sent: Any, found: Any) -> None:
    """The oracle: the same types all the way down, the same order of keys, and the same bits."""
    if isinstance(sent, tuple) and hasattr(sent, "_fields"):
        assert (type(found).__name__, found._fields) == (type(sent).__name__, type(sent)._fields)
    else:
        assert type(found) is type(sent)
    if isinstance(sent, torch.Tensor):
        assert (found.dtype, found.shape) == (sent.dtype, sent.shape)
        assert found.reshape(-1).view(torch.uint8).equal(sent.detach().reshape(-1).view(torch.uint8))
    elif isinstance(sent, np.ndarray | np.generic):
        assert (found.dtype, found.shape, found.tobytes()) == (sent.dtype, sent.shape, sent.tobytes())
    elif isinstance(sent, dict):
        assert list(map(type, found)) == list(map(type, sent))
        assert list(found) == list(sent)
        for key, value in sent.items():
            assert_exact(value, found[key])
    elif isinstance(sent, list | tuple):
        assert len(found) == len(sent)
        for a, b in zip(sent, found, strict=True):
            assert_exact(a, b)
    elif isinstance(sent, float):
        assert struct.pack("d", found) == struct.pack("d", sent)
    else:
        assert found == sent
    assert getattr(found, "stamp", None) == getattr(sent, "stamp", None)


DTYPES = "? b B >i2 <u4 >i8 u8 e >f4 <f8 F >D S3"
arrays = st.builds(
    lambda dtype, shape, seed: (
        np.random.default_rng(seed).integers(0, 2, (*shape, np.dtype(dtype).itemsize), np.uint8)
        .view(dtype)
        .reshape(shape)
    ),
    st.sampled_from(DTYPES.split()),
    st.lists(st.integers(0, 3), max_size=3).map(tuple),
    st.integers(0, 99),
)  # fmt: skip
texts = st.text(max_size=4).map(np.array) | st.lists(st.text(max_size=4), min_size=1, max_size=3).map(
    lambda words: np.array(words).astype(">U5")
)
tensors = st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.float16]).map(
    lambda dtype: torch.arange(6).reshape(2, 3).to(dtype)
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5)
    | arrays.filter(lambda array: array.size > 0).map(lambda array: array.reshape(-1)[0])
)
keys = st.text(max_size=3) | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=2) | st.booleans()
values = st.recursive(
    scalars | arrays | texts | tensors,
    lambda parts: (
        st.lists(parts, max_size=3)
        | st.lists(parts, max_size=3).map(tuple)
        | st.dictionaries(keys, parts, max_size=3)
        | st.dictionaries(keys, parts, max_size=3).map(OrderedDict)
        | st.builds(Pose, parts, parts)
    ),
    max_leaves=8,
)
stamps = st.builds(
    Stamp,
    st.sampled_from("ab"),
    st.integers(0, 2),
    *[st.integers(0, 2**61)] * 3,
    st.sampled_from("xy"),
    st.integers(0, 2),
)
samples = st.builds(
    lambda six, stamp: six if stamp is None else Sample(six, stamp),
    st.lists(values, max_size=8).map(tuple),
    st.none() | stamps,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(samples | values, max_size=5), st.sampled_from([(), ("obs",)]), st.booleans())
def test_samples_of_any_kind_arrive_exactly(sent: list[Any], compress: tuple[str, ...], wishes: bool) -> None:
    """Whether or not the trainer keeps rows: what fits none travels as it is."""
    found = travelled([*sent, (1, 2)], Wishes() if wishes else None, compress=compress)
    for a, b in zip([*sent, (1, 2)], found, strict=True):
        assert_exact(a, b)


def test_arrays_may_be_of_any_layout_in_memory_and_come_back_writable() -> None:
    cube = np.arange(24).reshape(2, 3, 4)
    sent = [cube[::-1], cube.T, cube[:, ::2], np.asfortranarray(cube), np.broadcast_to(cube[0], (5, 3, 4))]
    (found,) = travelled([tuple(sent)])
    for a, b in zip(sent, found, strict=True):
        assert np.array_equal(a, b)
        assert a.dtype == b.dtype
        b[:] = 0
    assert cube.any()


@settings(max_examples=100, deadline=None)
@given(makers(), st.booleans(), st.booleans())
def test_rows_are_what_the_packer_would_make(make: SampleMaker, stamp: bool, compress: bool) -> None:
    sent: list[Any] = [make(is_reset=i == 0, terminated=i == 4) for i in range(5)]
    if stamp:
        sent = stamped(sent, "bob", first_step=7, episode=3, epoch=2)
    encoder = Encoder(Wishes(("n",)), compress=("obs", "rew") if compress else ())
    buffer = decode(b"".join(encoder.encode(buffer_of(sent))))
    (part,) = buffer.row_parts() or []
    packer = encoder._known[1].packer  # type: ignore[index]
    assert part.chunk.rows.tobytes() == packer.pack(sent).tobytes()
    assert part.chunk.rows.dtype == packer.schema.row_dtype
    for a, b in zip(sent, buffer.memory, strict=True):
        assert getattr(a, "stamp", None) == getattr(b, "stamp", None)
        assert (a[0] is None) == (b[0] is None)
        assert (a[3], a[4], int(b[5]["n"])) == (b[3], b[4], a[5]["n"])
    again = Encoder(Wishes(("n",))).encode(buffer_of(buffer.memory))
    assert decode(b"".join(again)).row_parts()[0].chunk.rows.tobytes() == packer.pack(sent).tobytes()  # type: ignore[index]


def test_statistics_and_episodes_travel_too() -> None:
    buffer = buffer_of(stamped(plain_episode(3), "ann"))
    buffer.record_episode(EpisodeRecord("ann", 1.5, 3, False, 7))
    buffer.record_episode(EpisodeRecord("eve", math.inf, 2, True))
    buffer.dropped = 4
    parcel = parcel_of(buffer, Wishes())
    found = decode(parcel)
    assert isinstance(found, ChunkBuffer)
    assert found.episodes == buffer.episodes
    assert (found.stat_train_return, found.stat_train_steps) == (1.5, 3)
    assert (found.stat_test_return, found.stat_test_steps) == (math.inf, 2)
    assert found.dropped == 4
    assert summary(parcel) == summary(memoryview(parcel)) == (4, 2, ("ann", "eve"))


def test_an_empty_buffer_travels() -> None:
    buffer = Buffer()
    buffer.stat_train_return = 2.0
    for wishes in (None, Wishes()):
        found = decode(parcel_of(buffer, wishes))
        assert (len(found), found.memory, found.stat_train_return) == (0, [], 2.0)


def test_several_workers_and_plain_samples_share_one_buffer() -> None:
    ann, bob = (stamped(plain_episode(3), name) for name in ("ann", "bob"))
    mixed = [*ann[:2], bob[0], *plain_episode(2), ann[2], *bob[1:]]
    parcel = parcel_of(buffer_of(mixed), Wishes())
    assert summary(parcel).workers == ("ann", "bob", "unstamped")
    found = decode(parcel)
    assert len(found.row_parts() or []) == 5
    assert sorted(map(str, (getattr(s, "stamp", None) for s in found.memory))) == sorted(
        map(str, (getattr(s, "stamp", None) for s in mixed))
    )


def test_the_layout_is_known_once_there_was_an_action_and_found_anew_when_it_changes() -> None:
    encoder = Encoder(Wishes())
    kinds: list[str] = []
    changed = [(act, (obs, obs), *rest) for act, obs, *rest in plain_episode(2)]
    ragged = [(act, np.zeros(i), *rest) for i, (act, _, *rest) in enumerate(plain_episode(3))]
    for sent in (plain_episode(3)[:1], plain_episode(3), plain_episode(3)[:1], changed, ragged, changed):
        found = decode(b"".join(encoder.encode(buffer_of(sent))))
        kinds.append("samples" if found.row_parts() is None else "rows")
        assert len(found) == len(sent)
    assert kinds == ["samples", "rows", "rows", "rows", "samples", "rows"]


def test_rows_of_too_many_runs_travel_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def sent_as_rows() -> bool:
        parts = decode(parcel_of(buffer_of(mixed), Wishes())).parts
        return all(isinstance(part, RowPart) for part in parts)

    mixed = [*stamped(plain_episode(3), "ann"), *stamped(plain_episode(2), "bob")]
    assert sent_as_rows()
    monkeypatch.setattr("tmrl.networking.row_codec.MAX_RUNS", 1)
    assert not sent_as_rows()


def test_wishes_may_change_at_any_time() -> None:
    sent = [step(1.0, info={"n": i}) for i in range(3)]
    encoder = Encoder()
    assert decode(b"".join(encoder.encode(buffer_of(sent)))).row_parts() is None
    for keys in ((), ("n",)):
        encoder.wishes = Wishes(keys)
        (part,) = decode(b"".join(encoder.encode(buffer_of(sent)))).row_parts() or []
        assert tuple(part.schema.info) == keys


def test_wishes_are_json() -> None:
    wishes = Wishes(("a", "b"), with_crc=True)
    assert Wishes.from_json(wishes.to_json()) == wishes
    for document in (None, {}, {"info_keys": "ab", "with_crc": True}, {"info_keys": [1], "with_crc": True}):
        with pytest.raises(ParcelError, match=r"malformed|must be a"):
            Wishes.from_json(document)


def test_checksums_travel_in_rows() -> None:
    sent = with_crc(stamped(plain_episode(3)))
    found = travelled(sent, Wishes(with_crc=True))
    assert [sample[5]["crc"] for sample in found[1:]] == [sample[5]["crc"] for sample in sent[1:]]


def test_what_is_alike_is_small_when_compressed() -> None:
    sent = stamped([step(np.zeros((64, 64), np.uint8)) for _ in range(50)])
    for wishes in (None, Wishes()):
        whole, small = (len(parcel_of(buffer_of(sent), wishes, compress=c)) for c in ((), ("obs",)))
        assert small < whole / 20


class Thing:
    pass


Odd = namedtuple("Odd", "a")  # noqa: PYI024


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (step(1.0, info={"cache": {"x": Thing()}}), r"info\['cache'\]\['x'\]: a .*Thing"),
        (step([0, [1, Thing()]]), r"obs\[1\]\[1\]: a .*Thing"),
        (step(Odd({1, 2})), r"obs\[0\]: a set"),
        (step(defaultdict(int)), r"obs: a collections.defaultdict"),
        (step(bytearray(b"x")), r"obs: a bytearray"),
        (step(memoryview(b"x")), r"obs: a memoryview"),
        (step(np.array([Thing()])), r"obs: a ndarray of dtype object"),
        (step(np.datetime64(1, "s")), r"obs: a datetime64 of dtype datetime64\[s\]"),
        (step(np.zeros(2, np.longdouble)), r"obs: a ndarray of dtype"),
        (step(np.ma.masked_array([1.0])), r"obs: a numpy.*MaskedArray"),
        (step("\ud800"), r"obs: a str with lone surrogates"),
        (step(np.str_("\ud800")), r"obs: a str with lone surrogates"),
        (step({(1, 2): 3}), r"obs\[\(1, 2\)\]: a key that is a tuple of another kind"),
        (step({2**70: 3}), r"obs\[1180591620717411303424\]: a key that is a int of another kind"),
        (step(1 << (1 << 20)), r"obs: an int of astronomic size"),
        (step(torch.zeros(2).to_sparse()), r"obs: a Tensor that is no array"),
        ((1, 2, Thing()), r"sample\[2\]: a .*Thing"),
        (Thing(), r"sample: a .*Thing"),
    ],
)
def test_what_cannot_travel_is_refused_on_the_worker(values: Any, message: str) -> None:
    pattern = rf"worker 'unstamped', sample 1 of 2: {message}.*convert it, or leave it out.*nothing was sent"
    for wishes in (None, Wishes()):
        with pytest.raises(BadSampleError, match=pattern):
            Encoder(wishes).encode(buffer_of([(1,), values]))


def test_a_refusal_names_the_worker() -> None:
    with pytest.raises(BadSampleError, match="worker 'ann', sample 0 of 1: info"):
        Encoder().encode(buffer_of([Sample(step(1.0, info={"x": Thing()}), Stamp("ann", 0, 0, 0, 0))]))


def test_an_endless_nest_is_refused_and_one_of_the_greatest_depth_travels() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(BadSampleError, match="too deep or endless"):
        Encoder().encode(buffer_of([endless]))
    deep: Any = 1
    for _ in range(32):
        deep = [deep]
    assert travelled([deep]) == [deep]
    with pytest.raises(BadSampleError, match="too deep"):
        Encoder().encode(buffer_of([[deep]]))


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (
            [("x" * (1 << 21),)] * 3,
            "they need 6,291,.* bytes beside their arrays, and one parcel has 4,194,304",
        ),
        ([tuple([] for _ in range(200_000))] * 5, "the containers of a document must fit 67,108,864 bytes"),
        ([(0,) * 300_000], "a list or a dict must have at most 262,144 items: 300001 exceeds"),
        (stamped(plain_episode(1), "é" * 257), "bytes of a worker's name must be from 0 to 512, got 514"),
        (
            [one for i in range(1025) for one in stamped(plain_episode(1)[:1], f"lane {i}")],
            "workers must be from 0 to 1,024, got 1,025",
        ),
    ],
    ids=["bytes", "containers", "items", "name", "names"],
)
def test_more_than_a_parcel_takes_is_refused_on_the_worker(samples: list[Any], reason: str) -> None:
    """Else the receiver would refuse it, where nobody can mend it any more."""
    message = f"are too much for one parcel: .*{reason}.*send the Buffer more often; nothing was sent"
    with pytest.raises(BadSampleError, match=message):
        Encoder().encode(buffer_of(samples))


def test_more_records_of_episodes_than_a_parcel_takes_are_refused_on_the_worker() -> None:
    buffer = Buffer()
    buffer.episodes = [EpisodeRecord("ann", 1.5, 3, False, 7)] * 70_000
    with pytest.raises(BadSampleError, match="a header must be at most 1,048,576 bytes, got 1,"):
        Encoder().encode(buffer)


def test_wrong_arguments_of_an_encoder_are_told() -> None:
    with pytest.raises(ValueError, match=r"compress must name fields \(act, obs, .*\), got 'imgae'"):
        Encoder(compress=("imgae",))
    with pytest.raises(TypeError, match="compress must be a tuple of names"):
        Encoder(compress="obs")
    with pytest.raises(ValueError, match="level must be from 1 to 22, got 0"):
        Encoder(level=0)


def test_a_part_of_rows_knows_its_length() -> None:
    mixed = buffer_of([*stamped(plain_episode(3)), *plain_episode(2)])
    parts = decode(parcel_of(mixed, Wishes())).parts
    assert [len(part) for part in parts] == [4, 3]
    assert all(isinstance(part, RowPart) for part in parts)
