"""Spaces survive JSON, and JSON that is no space is refused."""

import json
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from tmrl.datasets.spaces import environment_from_json, space_from_json, space_to_json
from tmrl.errors import DatasetError

SPACES = [
    spaces.Box(-1, 1, (3,)),
    spaces.Box(np.array([-np.inf, 0.1], np.float32), np.array([1, np.inf], np.float32)),
    spaces.Box(0, 255, (4, 4, 3), np.uint8),
    spaces.Box(0, 2**64 - 1, (2,), np.uint64),
    spaces.Box(-1, 1, (), np.float64),
    spaces.Box(-1, 1, (2, 0), np.float64),
    spaces.Discrete(5),
    spaces.Discrete(5, start=-2),
    spaces.MultiDiscrete([3, 4]),
    spaces.MultiDiscrete(np.array([[3, 4], [5, 6]]), start=np.array([[1, 0], [0, 1]])),
    spaces.MultiBinary(4),
    spaces.MultiBinary((2, 3)),
    spaces.Dict([("z", spaces.Discrete(2)), ("a", spaces.Tuple([spaces.Box(0, 1), spaces.Discrete(3)]))]),
]


@pytest.mark.parametrize("space", SPACES, ids=repr)
def test_space_survives_json(space: Any) -> None:
    found = space_from_json(json.loads(json.dumps(space_to_json(space), allow_nan=False)))
    assert found == space
    assert found.dtype == space.dtype
    if isinstance(space, spaces.Dict):
        assert list(found) == ["z", "a"]


def test_bounds_that_are_alike_are_one_number() -> None:
    assert space_to_json(SPACES[2])["Box"] == {"dtype": "uint8", "shape": [4, 4, 3], "low": 0, "high": 255}


def test_space_without_a_size_is_refused() -> None:
    with pytest.raises(DatasetError, match=r"must be made of Box, Discrete, .*, got Text.*leave it out"):
        space_to_json(spaces.Dict({"a": spaces.Text(3)}))


def deep(levels: int) -> Any:
    document: Any = {"Discrete": {"n": 2, "start": 0, "dtype": "int64"}}
    for _ in range(levels):
        document = {"Tuple": [document]}
    return document


BOX = {"dtype": "float32", "shape": [2], "low": 0, "high": 1}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"System": {}}, "must be of a known kind, got 'System'"),
        ({"Box": BOX | {"shape": [1 << 40]}}, "must have a sensible shape"),
        ({"Tuple": [{"Box": BOX | {"shape": [1 << 23]}}] * 3}, "must have a sensible shape"),
        ({"Box": BOX | {"shape": [-1]}}, "must have a sensible shape"),
        ({"Box": BOX | {"dtype": "object"}}, "must have a known dtype, got 'object'"),
        ({"Box": BOX | {"dtype": "bfloat16"}}, "must have a known dtype"),
        ({"Box": BOX | {"low": [1]}}, "reading it"),
        ({"Box": BOX | {"low": "x"}}, "reading it"),
        ({"Box": {}}, "reading it"),
        ({"Discrete": {"n": -1, "start": 0, "dtype": "int64"}}, "reading it"),
        ({"MultiBinary": {"n": 1 << 40}}, "must have a sensible shape"),
        ({}, "reading it"),
        ([], "reading it"),
        (deep(40), "at most 32 deep"),
    ],
)
def test_what_is_no_space_is_refused(document: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        space_from_json(document)


def test_what_is_no_environment_is_refused() -> None:
    for document in (None, [], {"id": 3}):
        with pytest.raises(DatasetError, match="an environment must be a JSON object with an id"):
            environment_from_json(document)
