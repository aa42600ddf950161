"""What one pass finds, beside NumPy on all rows at once."""

from typing import Any

import numpy as np
import pytest

from recorded import Listed, episode_of, schema_of
from tmrl.datasets.dataset import Episode
from tmrl.inspection import contents as module
from tmrl.inspection.contents import Contents, Spread, read_contents

DTYPES = "bool uint8 int8 int32 uint64 int64 float16 float32 float64 complex64"
OBS = {"x/y": {dtype: np.zeros((2, 3), dtype) for dtype in DTYPES.split()}, "number": 0}
WORKERS = ("ann", "bob", "cleo")


@pytest.fixture(params=[1, 700, 1 << 23])
def block_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", request.param)
    monkeypatch.setattr(module, "BLOCK_EPISODES", 5)


def mixed(n: int = 23) -> Listed:
    """Whole episodes, parts of some, of three workers and two sources."""
    rng = np.random.default_rng(0)
    schema = schema_of(OBS, {"arm": np.zeros(3, np.float32), "grip": np.int64(0)})
    episodes = [
        episode_of(
            schema,
            int(rng.integers(1, 30)),
            rng,
            WORKERS[i % 3],
            "demo" if i < 5 else "online",
            begins=i % 7 != 3,
            terminated=i % 4 == 0,
            truncated=i % 4 == 1,
        )
        for i in range(n)
    ]
    return Listed(schema, episodes)


def wide(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return (np.abs(values) if values.dtype.kind == "c" else values).astype(np.float64)


@pytest.mark.usefixtures("block_bytes")
def test_ranges_are_those_of_all_rows_and_of_all_transitions() -> None:
    dataset = mixed()
    contents = read_contents(dataset)
    rows = [episode.rows for episode in dataset.list]
    seconds = [episode.rows[1:] for episode in dataset.list]
    for name, found in contents.ranges.items():
        of_transitions = name == "rew" or name.startswith("act")
        values = wide(np.concatenate([part[name] for part in (seconds if of_transitions else rows)]))
        assert (found.n, found.n_nan) == (values.size, 0)
        np.testing.assert_allclose([found.low, found.high], [values.min(), values.max()], rtol=1e-6)
        np.testing.assert_allclose(found.mean, values.mean(), rtol=1e-5, atol=1e-12)
    assert set(contents.ranges) == {leaf.name for leaf in dataset.schema.leaves}


@pytest.mark.usefixtures("block_bytes")
def test_rewards_and_actions_are_those_of_transitions() -> None:
    dataset = mixed()
    contents = read_contents(dataset)
    rewards = np.concatenate([episode.rows["rew"][1:] for episode in dataset.list]).astype(np.float64)
    np.testing.assert_allclose(
        [contents.reward.mean[0], contents.reward.std[0]], [rewards.mean(), rewards.std()]
    )
    assert contents.rewards.counts.sum() == len(rewards) == contents.n_transitions
    arm, grip = contents.actions
    arms = np.concatenate([episode.rows["act/arm"][1:] for episode in dataset.list]).astype(np.float64)
    assert (arm.labels, grip.labels) == (["act/arm[0]", "act/arm[1]", "act/arm[2]"], ["act/grip"])
    np.testing.assert_allclose(arm.extent.std, arms.std(axis=0), rtol=1e-6)
    for column, histogram in enumerate(arm.histograms):
        edges = histogram.low + histogram.width * np.arange(len(histogram.counts) + 1)
        np.testing.assert_array_equal(histogram.counts, np.histogram(arms[:, column], edges)[0])


@pytest.mark.usefixtures("block_bytes")
def test_episodes_are_counted_by_how_they_begin_and_end() -> None:
    dataset = mixed()
    contents = read_contents(dataset)
    assert contents.lengths.tolist() == [episode.length for episode in dataset.list]
    np.testing.assert_allclose(
        contents.returns, [episode.episode_return for episode in dataset.list], rtol=1e-9
    )
    whole = [episode.begins and (episode.is_terminated or episode.is_truncated) for episode in dataset.list]
    assert contents.is_whole.tolist() == whole
    assert contents.is_terminated.sum() == 6
    assert contents.n_rows == dataset.n_rows
    assert contents.n_bytes == sum(episode.rows.nbytes for episode in dataset.list)


def test_shares_of_workers_and_sources_are_told_the_largest_first() -> None:
    dataset = mixed()
    contents = read_contents(dataset)
    for shares, attribute in ((contents.workers, "worker"), (contents.sources, "source")):
        assert sum(share.rows for share in shares) == dataset.n_rows
        assert [share.rows for share in shares] == sorted((share.rows for share in shares), reverse=True)
        for share in shares:
            own = [episode for episode in dataset.list if getattr(episode, attribute) == share.name]
            ended = [e for e in own if e.begins and (e.is_terminated or e.is_truncated)]
            assert share.episodes == len(own)
            assert share.mean_return == pytest.approx(np.mean([episode.episode_return for episode in ended]))


def test_rows_count_for_the_label_that_they_have() -> None:
    schema = schema_of(np.zeros(1))
    rows = episode_of(schema, 10, np.random.default_rng(0), truncated=True).rows
    episode = Episode(rows, "ann", "online", True, ((4, "human"), (7, "online")))
    online, human = read_contents(Listed(schema, [episode])).sources
    assert (online.name, online.rows, online.episodes) == ("online", 7, 1)
    assert (human.name, human.rows, human.episodes) == ("human", 3, 0)
    assert np.isnan(human.mean_return)


def test_bfloat16_is_read_from_its_bits() -> None:
    import torch

    values = torch.tensor([1.5, -2.0, 3.25], dtype=torch.bfloat16)
    schema = schema_of(values[0])
    rows = np.zeros(3, schema.row_dtype)
    rows["obs"] = values.view(torch.uint16).numpy()
    found = read_contents(Listed(schema, [Episode(rows, "ann", "online")])).ranges["obs"]
    assert (found.low, found.high, found.mean) == (-2.0, 3.25, pytest.approx(2.75 / 3))


def test_what_is_not_finite_is_counted_and_left_out() -> None:
    schema = schema_of(np.zeros(2))
    episodes = [episode_of(schema, 4, np.random.default_rng(i), truncated=True) for i in range(3)]
    episodes[1].rows["obs"][2] = np.nan, np.inf
    episodes[1].rows["rew"][2] = np.nan
    contents = read_contents(Listed(schema, episodes))
    assert (contents.ranges["obs"].n_nan, contents.ranges["obs"].n_inf) == (1, 1)
    assert np.isfinite(contents.ranges["obs"].mean)
    assert np.isnan(contents.returns).tolist() == [False, True, False]
    assert Spread.of(contents.returns).n == 2
    assert np.isfinite(contents.workers[0].mean_return)


def test_nothing_and_a_single_row_are_fine() -> None:
    schema = schema_of(np.zeros(2), np.zeros(0))
    empty = read_contents(Listed(schema, []))
    assert (empty.n_rows, empty.n_episodes, empty.n_transitions, empty.workers) == (0, 0, 0, [])
    one = read_contents(Listed(schema, [episode_of(schema, 1, np.random.default_rng(0))]))
    assert (one.n_rows, one.n_transitions, one.returns.tolist()) == (1, 0, [0.0])
    assert np.isnan(one.ranges["rew"].mean)


def test_a_large_action_shares_one_histogram() -> None:
    schema = schema_of(np.zeros(1), np.zeros((10, 20), np.float32))
    dataset = Listed(schema, [episode_of(schema, 50, np.random.default_rng(0))])
    (action,) = read_contents(dataset).actions
    assert len(action.histograms) == 1
    assert action.histograms[0].counts.sum() == 49 * 200
    assert action.labels[21] == "act[1, 1]"


def test_progress_is_told_in_rows() -> None:
    told: list[int] = []
    contents: Contents = read_contents(mixed(), told.append)
    assert sum(told) == contents.n_rows
