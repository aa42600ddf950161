"""Recorded episodes of arbitrary bits for tests of datasets, and whether two datasets are the same."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from nests import fill, nests
from tmrl.datasets import About, Dataset, Episode, EpisodeList
from tmrl.rows import Rows
from tmrl.schema import Nest, Schema, info_name

LABELS = st.sampled_from(["online", "demo", "intervention", "é ~/"])


def random_rows(schema: Schema, n: int, rng: np.random.Generator) -> Rows:
    """Rows of arbitrary bits, NaNs among them; none is done."""
    rows = np.zeros(n, schema.row_dtype)
    for leaf in schema.leaves:
        if leaf.name in {"terminated", "truncated"}:
            continue
        shape = (n, *leaf.shape)
        if leaf.dtype == np.bool_:
            rows[leaf.name] = rng.integers(0, 2, shape)
        else:
            octets = rng.bytes(int(np.prod(shape, dtype=int)) * leaf.dtype.itemsize)
            rows[leaf.name] = np.frombuffer(octets, leaf.dtype).reshape(shape)
    return rows


def schema_like(obs: Any, act: Any = 0.5, with_crc: bool = False, **info: Any) -> Schema:
    """A schema that these examples show."""
    kept = {key: Nest.infer(info_name(key), example) for key, example in info.items()}
    return Schema(Nest.infer("obs", obs), Nest.infer("act", act), kept, with_crc)


def episode_of(rows: Rows, ending: str = "terminated", **fields: Any) -> Episode:
    """An episode of these rows, which are changed so that the last one ends it."""
    if ending != "open":
        rows[ending][-1] = True
    return Episode(rows, **{"worker": "ann", "source": "demo", **fields})


def dataset_of(schema: Schema, lengths: list[int], seed: int = 0, about: About | None = None) -> EpisodeList:
    """Episodes of so many rows, each with other endings and labels."""
    rng = np.random.default_rng(seed)
    endings = ("terminated", "truncated", "open")
    episodes: list[Episode] = []
    for i, n in enumerate(lengths):
        changes = ((1, "intervention"), (n - 1, "demo")) if n > 3 and i % 2 else ()
        fields: dict[str, Any] = {
            "worker": f"w{i % 3}",
            "source": ("demo", "online")[i % 2],
            "changes": changes,
        }
        episodes.append(episode_of(random_rows(schema, n, rng), endings[i % 3], begins=i % 4 != 3, **fields))
    return EpisodeList(schema, about or About("native"), episodes)


@st.composite
def datasets(draw: st.DrawFn) -> EpisodeList:
    """Any nests and dtypes, any endings and labels."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    examples = [fill(draw(nests), rng) for _ in range(2)]
    info = {
        key: fill(draw(nests), rng) for key in draw(st.sets(st.sampled_from(["a/b", "x", "~"]), max_size=2))
    }
    schema = schema_like(*examples, with_crc=draw(st.booleans()), **info)
    episodes: list[Episode] = []
    for _ in range(draw(st.integers(0, 4))):
        n = draw(st.integers(1, 6))
        marks = sorted(draw(st.sets(st.integers(1, n - 1), max_size=2))) if n > 1 else []
        source, changes = draw(LABELS), []
        label = source
        for mark in marks:
            label = draw(LABELS.filter(lambda other, label=label: other != label))
            changes.append((mark, label))
        ending = draw(st.sampled_from(["terminated", "truncated", "open"]))
        fields: dict[str, Any] = {"worker": draw(LABELS), "source": source, "changes": tuple(changes)}
        episodes.append(episode_of(random_rows(schema, n, rng), ending, begins=draw(st.booleans()), **fields))
    return EpisodeList(schema, About("native"), episodes)


def assert_same(expected: Dataset, found: Dataset) -> None:
    """Same layout, episodes and labels; every bit of every leaf."""
    assert found.schema.leaves == expected.schema.leaves
    for nests_of in (lambda schema: schema.obs, lambda schema: schema.act):
        assert repr(nests_of(found.schema).zeros()) == repr(nests_of(expected.schema).zeros())
    assert {key: repr(nest.zeros()) for key, nest in found.schema.info.items()} == {
        key: repr(nest.zeros()) for key, nest in expected.schema.info.items()
    }
    assert list(found.schema.info) == list(expected.schema.info)
    assert found.rows_per_episode.tolist() == expected.rows_per_episode.tolist()
    assert (len(found), found.n_rows) == (len(expected), expected.n_rows)
    for ours, theirs in zip(expected.episodes(), found.episodes(), strict=True):
        assert labels_of(ours) == labels_of(theirs)
        assert_same_rows(ours.rows, theirs.rows, expected.schema)


def assert_same_rows(expected: Rows, found: Rows, schema: Schema) -> None:
    for leaf in schema.leaves:
        assert expected[leaf.name].tobytes() == found[leaf.name].tobytes(), leaf.name


def labels_of(episode: Episode) -> tuple[Any, ...]:
    return episode.worker, episode.source, episode.begins, episode.changes
