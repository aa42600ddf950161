"""Schemas survive JSON, and JSON that is no schema is refused."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from makers import plain_episode
from nests import SampleMaker, makers
from tmrl.errors import DatasetError
from tmrl.nest import flatten
from tmrl.schema import Nest, Schema
from tmrl.schema_json import nest_from_json, nest_to_json, schema_from_json, schema_to_json

PLAIN = Schema(Nest.infer("obs", plain_episode(1)[0][1]), Nest.infer("act", plain_episode(1)[1][0]))


def through_json(schema: Schema) -> Schema:
    return schema_from_json(json.loads(json.dumps(schema_to_json(schema))))


@settings(max_examples=150, deadline=None)
@given(makers(), st.booleans())
def test_schema_survives_json(make: SampleMaker, with_crc: bool) -> None:
    act, obs, *_ = make(is_reset=False)
    info = {"a/b": Nest.infer("info/a~1b", obs), "x": Nest.infer("info/x", act)}
    schema = Schema(Nest.infer("obs", obs), Nest.infer("act", act), info, with_crc)
    found = through_json(schema)
    assert found.leaves == schema.leaves
    assert found.row_dtype == schema.row_dtype
    assert through_json(found) == found
    # The nest comes back with the order of its keys; namedtuples are made anew.
    assert repr(found.obs.zeros()) == repr(schema.obs.zeros())


def test_dict_keeps_the_order_of_its_keys() -> None:
    nest = Nest.infer("obs", {"z": 1, "a": {"y": 2.0, "b": True}})
    found = nest_from_json("obs", nest_to_json(nest))
    assert found == nest
    assert list(found.zeros()) == ["z", "a"]
    assert list(found.zeros()["a"]) == ["y", "b"]


def test_bfloat16_is_named() -> None:
    import torch

    nest = Nest.infer("obs", torch.zeros(2, dtype=torch.bfloat16))
    assert nest_to_json(nest) == {"dtype": "bfloat16", "shape": [2]}
    assert nest_from_json("obs", nest_to_json(nest)) == nest


def deep(levels: int) -> Any:
    document: Any = {"dtype": "bool", "shape": []}
    for _ in range(levels):
        document = {"list": [document]}
    return document


@pytest.mark.parametrize(
    ("nest", "message"),
    [
        ({"dtype": "object", "shape": []}, "a known dtype and a sensible shape, got 'object'"),
        ({"dtype": "float32", "shape": [-1]}, "a sensible shape"),
        ({"dtype": "float32", "shape": [2**20, 2**20]}, "a sensible shape"),
        ({"dtype": "float32", "shape": [True]}, "a sensible shape"),
        ({"set": []}, r"must be one of dict, tuple, list, namedtuple or a leaf, got \['set'\]"),
        ([1], "must be a JSON object"),
        (deep(40), "at most 32 deep"),
        ({"namedtuple": "P", "fields": [["__class__", deep(0)]]}, "reading it"),
        ({"namedtuple": "P; import os", "fields": []}, "reading it"),
        ({"dtype": "float32"}, "reading it"),
    ],
)
def test_what_is_no_nest_is_refused(nest: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        schema_from_json(schema_to_json(PLAIN) | {"obs": nest})


def test_absurdly_large_row_is_refused() -> None:
    leaf = {"dtype": "float64", "shape": [1 << 28]}
    with pytest.raises(DatasetError, match="a row must be at most 1,073,741,824 bytes, got 2,147,483,658"):
        schema_from_json(schema_to_json(PLAIN) | {"obs": leaf})


def test_what_is_no_schema_is_refused() -> None:
    for document in (None, 3, [], {}, {"obs": {}}):
        with pytest.raises(DatasetError, match="schema must hold obs, act, info and with_crc"):
            schema_from_json(document)


def test_leaves_are_in_the_order_of_the_rows() -> None:
    document = schema_to_json(Schema(Nest.infer("obs", {"b": 1.0, "a": 2}), PLAIN.act))
    assert [key for key, _ in document["obs"]["dict"]] == ["b", "a"]
    names = [leaf.name for leaf in schema_from_json(document).obs.leaves]
    assert names == ["obs/a", "obs/b"]
    assert flatten({"b": 1.0, "a": 2})[0] == [2, 1.0]
