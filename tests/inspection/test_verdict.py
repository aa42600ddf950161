"""What `verify` concludes."""

import numpy as np

from recorded import Listed, episode_of, schema_of
from tmrl.datasets.dataset import Episode
from tmrl.errors import DatasetError
from tmrl.inspection.verdict import MAX_TOLD, verify


def dataset_of(n: int, kind: type[Listed] = Listed) -> Listed:
    schema = schema_of(np.zeros(100))
    return kind(schema, [episode_of(schema, 4, np.random.default_rng(0)) for _ in range(n)])


class Torn(Listed):
    def episode(self, index: int) -> Episode:
        raise DatasetError(f"episode {index} is damaged")


def test_a_sound_dataset_says_what_was_read() -> None:
    verdict = verify(dataset_of(3))
    assert verdict.is_sound
    assert str(verdict).startswith("sound: native, 12 rows in 3 episodes, 9.8 kB read in 0.0 s")


def test_damage_is_told_from_the_first_on_and_counted() -> None:
    verdict = verify(dataset_of(2, Torn))
    assert not verdict.is_sound
    assert str(verdict) == "episode 0 is damaged\nepisode 1 is damaged"
    many = verify(dataset_of(MAX_TOLD + 7, Torn))
    assert many.n_damage == MAX_TOLD + 7
    assert len(many.damage) == MAX_TOLD
    assert str(many).endswith("\nand 7 more")
