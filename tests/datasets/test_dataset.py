"""Rows are cut into episodes where they start, and labels are kept row by row."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recordings import random_rows, schema_like
from tmrl.datasets.dataset import cut

SCHEMA = schema_like(1.0)


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.sampled_from("abc")), min_size=1, max_size=30))
def test_parts_give_every_row_its_own_label(rows: list[tuple[bool, bool, str]]) -> None:
    starts, begins, labels = (np.array(column) for column in zip(*rows, strict=True))
    starts[0] = True
    data = random_rows(SCHEMA, len(rows), np.random.default_rng(0))
    episodes = cut(data, starts, begins, np.full(len(rows), "ann"), labels)
    found = [label for e in episodes for start, stop, label in e.parts() for _ in range(stop - start)]
    assert found == labels.tolist()
    assert [len(episode.rows) for episode in episodes] == np.diff(
        np.append(np.flatnonzero(starts), len(rows))
    ).tolist()
    assert [episode.begins for episode in episodes] == begins[starts].tolist()
    assert np.concatenate([e.rows["obs"] for e in episodes]).tobytes() == data["obs"].tobytes()


def test_episodes_cannot_be_written_to() -> None:
    rows = random_rows(SCHEMA, 3, np.random.default_rng(0))
    one = np.array([True, False, False])
    (episode,) = cut(rows, one, one, ["ann"] * 3, np.array(["demo"] * 3))
    with pytest.raises(ValueError, match="read-only"):
        episode.rows["rew"] = 0


def test_episode_says_its_length_return_and_end() -> None:
    rows = random_rows(SCHEMA, 4, np.random.default_rng(0))
    rows["rew"] = [8, 1, 2, 0.5]
    rows["truncated"][-1] = True
    one = np.array([True, False, False, False])
    (episode,) = cut(rows, one, one, ["ann"] * 4, np.array(["demo"] * 4))
    assert (episode.length, episode.episode_return) == (3, 3.5)
    assert (episode.is_terminated, episode.is_truncated) == (False, True)
