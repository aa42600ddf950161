"""A data.pkl gives back arrays and containers bit by bit, and nothing in it is ever executed."""

import copyreg
import pickle
import struct
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tmrl.datasets import read_columns
from tmrl.errors import DatasetError, UnsafePickleError

RNG = np.random.default_rng(0)
STRUCTURED = np.dtype(
    {"names": ["a", "b"], "formats": ["f4", (">i2", (2,))], "offsets": [0, 6], "itemsize": 12}
)
EXECUTED = []


def touch(*args, **kwargs):
    """What a malicious pickle would like to call."""
    EXECUTED.append(args)
    return args


class Malicious:
    def __reduce__(self):
        return touch, ("executed",)


@pytest.fixture
def write(tmp_path):
    def write_bytes(content):
        file = tmp_path / "data.pkl"
        file.write_bytes(content)
        return file

    return write_bytes


@pytest.fixture(autouse=True)
def nothing_is_executed():
    EXECUTED.clear()
    yield
    assert EXECUTED == []


def assert_identical(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        assert found.flags.writeable
        assert found.base is None
        if expected.dtype == object:
            for one, other in zip(found.flat, expected.flat, strict=True):
                assert_identical(one, other)
        elif expected.dtype.names:  # the bytes between its fields mean nothing
            assert (found == expected).all()
        else:
            assert found.tobytes() == expected.tobytes()
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_identical(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_identical(one, other)
    else:
        assert repr(found) == repr(expected)


VALUES = {
    "ints": [0, -1, 255, 256, 65536, 2**40, -(2**70), True, False],
    "floats": [0.0, -0.0, 1e300, float("inf"), float("nan")],
    "text": ["", "käse", "\n", "x" * 300, b"", b"\x00\xff", bytearray(b"\x01"), bytearray()],
    "containers": [[], (), {}, (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [[1], [2]], {"a": {"b": [None]}}],
    "sets": [{1}, set(), frozenset({2.5})],
    "complex": [1 + 2j],
    "arrays": [
        RNG.random((3, 4)),
        np.arange(6, dtype=np.uint8).reshape(2, 3),
        np.array(3.5),
        np.zeros((0, 3)),
    ],
    "layouts": [
        np.asfortranarray(RNG.random((3, 4))),
        RNG.random((4, 5, 6)).transpose(1, 0, 2),
        RNG.random(9)[::-2],
    ],
    "dtypes": [
        np.array([0, 1, 1, 0]).astype(code)
        for code in ["?", "<f2", ">f8", ">i4", "c16", "u8", "m8[ms]", "M8[ns]"]
    ],
    "strings": [np.array(["a", "käse"]), np.array([b"a", b"bc"]), np.zeros(2, "V3")],
    "structured": [np.zeros((2, 2), STRUCTURED), np.ones(1, STRUCTURED)[0]],
    "objects": [np.array([None, {"a": np.ones(2)}, [1]], object), np.array([[1, "a"]], object)],
    "scalars": [
        np.float32(1.5),
        np.float64(2.5),
        np.int64(-3),
        np.bool_(True),
        np.str_("ä"),
        np.str_(""),
        np.bytes_(b"x"),
    ],
    "dtype": [np.dtype("f4"), np.dtype(">i2"), STRUCTURED],
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", VALUES)
def test_what_was_dumped_is_read_back_identical(write, protocol, kind):
    assert_identical(read_columns(write(pickle.dumps(VALUES[kind], protocol))), VALUES[kind])


@pytest.mark.parametrize("protocol", range(6))
def test_file_of_numpy_1_is_read(write, protocol):
    content = pickle.dumps([np.arange(3.0), np.float32(1)], protocol)
    old = content.replace(b"numpy._core.", b"numpy.core.")
    if protocol >= 4:  # the length that stands before the name, and the frame's
        old = old.replace(b"\x8c\x16numpy.core", b"\x8c\x15numpy.core").replace(
            b"\x8c\x13numpy.core", b"\x8c\x12numpy.core"
        )
    assert b"numpy.core" in old
    assert_identical(read_columns(write(old)), [np.arange(3.0), np.float32(1)])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
            lambda nest: st.lists(nest) | st.tuples(nest, nest) | st.dictionaries(st.text(), nest),
            max_leaves=8,
        )
    ),
    st.integers(0, 5),
)
def test_any_builtin_nest_is_read_back_identical(tmp_path_factory, columns, protocol):
    file = tmp_path_factory.mktemp("nest") / "data.pkl"
    file.write_bytes(pickle.dumps(columns, protocol))
    assert_identical(read_columns(file), columns)


def test_shared_objects_stay_shared(write):
    shared, column = np.ones(2), [1]
    read = read_columns(write(pickle.dumps([shared, shared, column, column])))
    assert read[0] is read[1]
    assert read[2] is read[3]


def reduced(function, *args):
    """An object whose pickle calls `function`."""

    class Reduced:
        def __reduce__(self):
            return function, args

    return Reduced()


class Slotted:
    pass


REFUSED = {
    "a function": (Malicious(), r"names .*touch"),
    "os.system": (reduced(__import__("os").system, "true"), r"names (posix|nt)\.system"),
    "eval": (reduced(eval, "1"), r"names (builtins|__builtin__)\.eval"),
    "getattr": (reduced(getattr, "a", "upper"), r"names (builtins|__builtin__)\.getattr"),
    "numpy.load": (reduced(np.load, "x", None, True), r"names numpy\.load"),
    "numpy.fromfile": (reduced(np.frombuffer, b"1234"), r"names numpy\.frombuffer"),
    "a class": (Slotted(), r"names .*"),
    "an ordered dict": (OrderedDict(a=1), r"names collections\.OrderedDict"),
    "a masked array": (np.ma.ones(2), r"names numpy\.ma"),
    "a range": (range(10**12), r"names (builtins|__builtin__)\.x?range"),
    "a type as a value": (np.ndarray, r"uses numpy ndarray as a value"),
    "an array called": (reduced(np.ndarray, (10**12,)), r"calls numpy\.ndarray"),
    "bytes of a length": (reduced(bytes, 10**12), r"uses int where"),
    "bytearray of a length": (reduced(bytearray, 10**12), r"uses int where"),
    "a set of text": (reduced(set, "abc"), r"uses str where"),
    "dtype of a class": (reduced(np.dtype, "S5,O"), r"uses the dtype 'S5,O'"),
    "tuple as a key": ({(1, 2): 3}, r"uses tuple as a key"),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_array_or_container_is_refused_by_its_name(write, protocol, kind):
    value, message = REFUSED[kind]
    with pytest.raises(UnsafePickleError, match=message + r".*; only NumPy arrays .* nothing was run"):
        read_columns(write(pickle.dumps([value], protocol)))


@pytest.mark.parametrize("protocol", range(6))
def test_object_inside_an_array_of_objects_is_refused(write, protocol):
    with pytest.raises(UnsafePickleError, match=r"names .*touch"):
        read_columns(write(pickle.dumps([np.array([Malicious()], object)], protocol)))


def short(text):
    return b"\x8c" + bytes([len(text)]) + text.encode()


def named(module, name):
    return short(module) + short(name) + b"\x93"


RECONSTRUCT = named("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"
RECONSTRUCTED = named("numpy._core.multiarray", "_reconstruct") + RECONSTRUCT
DTYPE = named("numpy", "dtype")


def dtype(code, state):
    """A pickled dtype with any state, true or not."""
    return DTYPE + short(code) + b"\x89\x88\x87R" + b"(" + state + b"tb"


F8 = dtype("f8", b"K\x03" + short("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00")
OBJECT_WITHOUT_ITS_FLAG = dtype("O8", b"K\x03" + short("|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00")
FIELD_OUT_OF_BOUNDS = dtype(
    "V8",
    b"K\x03"
    + short("|")
    + b"N"
    + short("a")
    + b"\x85"
    + b"}"
    + short("a")
    + F8
    + b"M\xff\x7f\x86s"
    + b"K\x08K\x01K\x10",
)


def array(dtype_code, shape, raw):
    return RECONSTRUCTED + b"(K\x01" + shape + dtype_code + b"\x89" + raw + b"tb"


ABSURD = {
    "memo index that would allocate 64 GiB": (b"]r\xff\xff\xff\xffK\x01a.", None),
    "bytes longer than the file": (b"]\x8e" + struct.pack("<Q", 2**62) + b"x", "expected .* bytes"),
    "frame longer than the file": (b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"]", "exhausted"),
    "array larger than its bytes": (
        b"]" + array(F8, b"J\xff\xff\xff\x7f\x85", b"C\x08" + bytes(8)) + b"a.",
        "1 elements",
    ),
    "array of negative extent": (
        b"]" + array(F8, b"J\xff\xff\xff\xffJ\xff\xff\xff\xff\x86", b"C\x08" + bytes(8)) + b"a.",
        "comes with 1 elements",
    ),
    "bytes taken for addresses": (
        b"]" + array(OBJECT_WITHOUT_ITS_FLAG, b"K\x01\x85", b"C\x08" + b"A" * 8) + b"a.",
        "uses bytes where",
    ),
    "field outside its record": (
        b"]" + array(FIELD_OUT_OF_BOUNDS, b"K\x01\x85", b"C\x08" + bytes(8)) + b"a.",
        "a pickle of columns, but",
    ),
    "array without state": (b"]" + RECONSTRUCTED + b"a.", "uses an unfinished array as a value"),
    "array holding itself": (
        b"]"
        + RECONSTRUCTED
        + b"\x94(K\x01K\x01\x85"
        + dtype("O8", b"K\x03" + short("|") + b"NNNKAKAK\x3f")
        + b"\x89]h\x00atba.",
        "unfinished array as a value",
    ),
    "state for a list": (b"]]}ba.", "uses list where"),
    "extension code": (b"]\x82\xf0a.", "instruction EXT1"),
    "persistent id": (b"]Pspam\na.", "instruction PERSID"),
    "binary persistent id": (b"]" + short("spam") + b"Qa.", "instruction BINPERSID"),
    "buffer out of band": (b"\x80\x05]\x97a.", "instruction NEXT_BUFFER"),
    "old instance": (b"](ios\nsystem\na.", "instruction INST"),
    "new object": (b"]" + named("numpy", "ndarray") + b")\x81a.", "instruction NEWOBJ"),
    "copyreg": (b"]" + named("copyreg", "_reconstructor") + b"a.", r"names copyreg\._reconstructor"),
    "dotted name": (b"]" + named("numpy", "ndarray.tofile") + b"a.", r"names numpy\.ndarray\.tofile"),
    "name that is no text": (b"]K\x01K\x02\x93a.", "uses int where"),
    "call of a list": (b"]])Ra.", "uses list where"),
    "get of nothing": (b"]h\x07a.", "but 7"),
    "append to nothing": (b"a.", "pop from empty list"),
    "mark of nothing": (b"t.", "pop from empty list"),
    "odd dict": (b"](}(K\x01ua.", "a pickle of columns, but"),
    "text in an encoding": (
        b"]" + named("_codecs", "encode") + short("x") + short("zip") + b"\x86Ra.",
        "encodes text as 'zip'",
    ),
    "no pickle": (b"\xff\xfe nonsense", "a pickle of columns, but"),
    "nothing": (b"", "a pickle of columns, but it is empty; write it anew"),
}


@pytest.mark.parametrize("kind", ABSURD)
def test_hand_made_pickle_is_refused_within_bounded_memory(write, kind):
    content, message = ABSURD[kind]
    file = write(content)
    if message is None:
        assert read_columns(file) == [1]
        return
    with pytest.raises(DatasetError, match=message):
        read_columns(file)


def test_extension_that_another_pickle_resolved_before_is_refused(write, monkeypatch):
    monkeypatch.setitem(copyreg._extension_cache, 0xF0, touch)
    with pytest.raises(UnsafePickleError, match="instruction EXT1"):
        read_columns(write(b"]\x82\xf0)Ra."))


def test_one_text_unpacked_again_and_again_is_refused(write):
    again = named("_codecs", "encode") + b"h\x00" + short("latin1") + b"\x86R"
    content = b"](" + b"X" + struct.pack("<I", 100_000) + b"x" * 100_000 + b"\x94" + again * 1000 + b"e."
    with pytest.raises(DatasetError, match="it unpacks to more than the file holds"):
        read_columns(write(content))


@pytest.mark.parametrize("dtype", [[("a", [("b", "f4")])], [("a", [("b", "f4")], (2,))]])
def test_record_within_a_record_is_refused(write, dtype):
    with pytest.raises(UnsafePickleError, match="uses a record within a record"):
        read_columns(write(pickle.dumps([np.zeros(2, dtype)])))


def test_nest_of_any_depth_is_read_without_recursion(write):
    column = read_columns(write(b"]" * 100_000 + b"a" * 99_999 + b"."))
    depth = 1
    while column:
        column, depth = column[0], depth + 1
    assert depth == 100_000


@pytest.mark.parametrize("protocol", range(6))
def test_file_cut_anywhere_is_an_error_of_ours(write, protocol):
    content = pickle.dumps([np.arange(3.0), {"a": (1, 2.5)}], protocol)
    for length in range(len(content)):
        with pytest.raises(DatasetError):
            read_columns(write(content[:length]))


def test_flipped_bytes_give_an_error_of_ours_or_inert_values(write):
    content = pickle.dumps([np.arange(3.0), {"a": (1, 2.5)}, np.float32(1), np.zeros(2, STRUCTURED)], 4)
    for _ in range(1000):
        flipped = bytearray(content)
        for position in RNG.integers(0, len(content), 2):
            flipped[position] = RNG.integers(0, 256)
        try:
            repr(read_columns(write(bytes(flipped))))
        except DatasetError:
            continue


@pytest.mark.parametrize("value", [3, "text", {"a": 1}, np.ones(2)])
def test_what_is_no_list_of_columns_is_refused(write, value):
    found = type(value).__name__
    with pytest.raises(
        DatasetError, match=f"must hold a list or tuple of columns, got {found}; dump memory.data"
    ):
        read_columns(write(pickle.dumps(value)))


def test_tuple_of_columns_becomes_a_list(write):
    assert read_columns(write(pickle.dumps(([1], [2])))) == [[1], [2]]
