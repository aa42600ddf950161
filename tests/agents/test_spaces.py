import numpy as np
import pytest
import torch
from gymnasium import spaces

from tmrl.agents.spaces import UnitBox, flat_observation, flat_observation_size
from tmrl.collate import collate_torch


def box(*shape, low=-1.0, high=1.0, dtype=np.float32):
    return spaces.Box(low, high, shape, dtype)


NESTED = spaces.Dict({"z": box(2), "a": spaces.Tuple([box(3, dtype=np.float64), box(2, 2)]), "scalar": box()})


def test_nested_observations_become_one_vector_of_the_announced_size():
    NESTED.seed(0)
    observations = [NESTED.sample() for _ in range(5)]
    flat = flat_observation(collate_torch(observations))
    assert flat.shape == (5, flat_observation_size(NESTED)) == (5, 2 + 3 + 4 + 1)
    assert flat.dtype == torch.float32
    first = observations[0]
    expected = np.concatenate([first["a"][0], first["a"][1].ravel(), [first["scalar"]], first["z"]])
    np.testing.assert_array_equal(flat[0].numpy(), expected.astype(np.float32))


def test_order_of_the_keys_of_an_observation_does_not_matter():
    one, other = torch.ones(2, 1), torch.zeros(2, 3)
    first, second = flat_observation({"a": one, "b": other}), flat_observation({"b": other, "a": one})
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_a_float32_vector_is_not_copied():
    obs = torch.randn(4, 3)
    assert flat_observation(obs).data_ptr() == obs.data_ptr()


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            spaces.Discrete(3),
            r"observation must be a Box for this agent, got Discrete\(3\); .*FlattenObservation",
        ),
        (spaces.Dict({"mode": spaces.Discrete(2)}), "observation/mode must be a Box"),
        (
            spaces.Dict({"camera": box(8, 8, 3, low=0, high=255, dtype=np.uint8)}),
            r"observation/camera must be a vector .* got an image \(8, 8, 3\) of uint8; .*convolutions",
        ),
    ],
)
def test_observations_that_are_no_vectors_are_refused(space, message):
    with pytest.raises(ValueError, match=message):
        flat_observation_size(space)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_actions_go_to_the_unit_box_and_back(dtype):
    space = spaces.Box(np.array([[-2, 0.5]], dtype), np.array([[4, 0.7]], dtype), dtype=dtype)
    unit_box = UnitBox(space)
    torch.manual_seed(0)
    unit = torch.rand(2) * 2 - 1
    act = unit_box.to_action(unit)
    assert act.shape == (1, 2)
    assert act.dtype == dtype
    torch.testing.assert_close(unit_box.from_action(torch.from_numpy(act)[None])[0], unit, rtol=0, atol=1e-5)


def test_ends_of_the_unit_box_are_the_bounds_and_never_beyond():
    rng = np.random.default_rng(0)
    low = rng.normal(size=100).astype(np.float32)
    space = spaces.Box(low, low + rng.uniform(0.1, 3, 100).astype(np.float32))
    unit_box = UnitBox(space)
    for end, bound in ((1.0, space.high), (-1.0, space.low)):
        act = unit_box.to_action(torch.full((100,), end))
        assert space.contains(act)
        np.testing.assert_allclose(act, bound, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            spaces.Discrete(3),
            r"must be a Box of floating-point numbers for SAC, got Discrete\(3\); .*continuous",
        ),
        (spaces.Box(0, 3, (2,), np.int64), "must be a Box of floating-point numbers"),
        (box(2, high=np.inf), "must have finite bounds for SAC, .*RescaleAction"),
        (box(2, low=1.0, high=1.0), "its low below its high, .*drop the fixed components"),
    ],
)
def test_action_spaces_without_a_unit_box_are_refused(space, message):
    with pytest.raises(ValueError, match=message):
        UnitBox(space)
