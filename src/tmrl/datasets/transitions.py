"""`.npz` files in the manner of D4RL: one entry a transition, the observation *before* each action.

    observations, actions, rewards, terminals            must be there
    timeouts                                             which transitions were the last before a cut
    next_observations                                    the observation after each action
    episode                                              number of the episode

The final observation of an episode is nowhere but in `next_observations`. Without it, the last transition of
each episode is left out, because its second half would have to be made up. Where an episode was cut is told
by `timeouts` and `episode`, or by a next observation that is not the one that comes next.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from tmrl.datasets.columns import (
    Columns,
    flags_of,
    is_under,
    n_samples,
    nest_of_columns,
    put_leaf,
    rewards_of,
)
from tmrl.datasets.dataset import About, EpisodeList, cut
from tmrl.errors import DatasetError
from tmrl.schema import Schema

SOURCE = "dataset"
_NAMES = {
    "observations": "obs",
    "actions": "act",
    "rewards": "rew",
    "terminals": "terminated",
    "timeouts": "truncated",
    "next_observations": "next",
    "episode": "episode",
}


def is_transitions(names: Iterable[str]) -> bool:
    """Whether columns are in this manner."""
    return "rewards" in names or "terminals" in names


def episodes_of_transitions(given: Columns, worker: str) -> EpisodeList:
    """Makes rows of transitions, and says what it had to assume.

    Raises:
        DatasetError: Columns are missing or do not fit, or nothing tells where episodes were cut.
    """
    columns = {_renamed(name): column for name, column in given.items() if name.split("/")[0] in _NAMES}
    remarks = [f"{name} was left out" for name in given if name.split("/")[0] not in _NAMES]
    schema = Schema(nest_of_columns("obs", columns), nest_of_columns("act", columns))
    n = n_samples(
        columns, [*(leaf.name for leaf in (*schema.obs.leaves, *schema.act.leaves)), "rew", "terminated"]
    )
    flags = {name: flags_of(name, columns[name]) for name in ("terminated", "truncated") if name in columns}
    has_next = any(is_under(name, "next") for name in columns)
    is_last = _last(columns, flags, schema, has_next, remarks)
    is_first = np.append(True, is_last[:-1])[:n]

    # A row for each reset, before the first transition of its episode, and one for each transition.
    places = np.arange(n) + np.cumsum(is_first)
    starts = np.zeros(n + int(is_first.sum()), np.bool_)
    starts[places[is_first] - 1] = True
    rows = np.zeros(len(starts), schema.row_dtype)
    for leaf in schema.obs.leaves:
        column = columns[leaf.name]
        following = columns[f"next{leaf.name[3:]}"] if has_next else np.roll(column, -1, axis=0)
        whole = np.empty((len(rows), *column.shape[1:]), column.dtype)
        whole[places], whole[places[is_first] - 1] = following, column[is_first]
        put_leaf(rows, leaf, whole)
    for leaf in schema.act.leaves:
        rows[leaf.name][places] = columns[leaf.name]
    rows["rew"][places] = rewards_of(columns["rew"], remarks)
    for name, flag in flags.items():
        rows[name][places] = flag
    if not has_next:
        remarks.append(
            "the last transition of each episode was left out: there are no next_observations, so its final "
            "observation is not known"
        )
        kept = np.ones(len(rows), np.bool_)
        kept[places[is_last]] = False
        rows, starts = rows[kept], starts[kept]
    sources, workers = np.full(len(rows), SOURCE), np.full(len(rows), worker)
    episodes = cut(rows, starts, starts, workers, sources)
    return EpisodeList(schema, About("npz", assumptions=tuple(remarks)), episodes)


def _renamed(name: str) -> str:
    first, *rest = name.split("/")
    return "/".join([_NAMES[first], *rest])


def _last(
    columns: Columns, flags: dict[str, NDArray[np.bool_]], schema: Schema, has_next: bool, remarks: list[str]
) -> NDArray[np.bool_]:
    """Which transitions are the last of their episode."""
    n = len(flags["terminated"])
    is_last = np.zeros(n, np.bool_)
    for flag in flags.values():
        is_last |= flag
    if "truncated" not in flags:
        if not (has_next or "episode" in columns):
            raise DatasetError(
                "it must hold timeouts, next_observations or episode: without them nobody knows where "
                "episodes were cut, and transitions would be made up"
            )
        remarks.append("there are no timeouts: an episode that does not terminate was left open")
    if "episode" in columns:
        is_last[:-1] |= columns["episode"][1:] != columns["episode"][:-1]
    if has_next:
        unseen = np.zeros(n, np.bool_)
        for leaf in schema.obs.leaves:
            column, following = columns[leaf.name], columns.get(f"next{leaf.name[3:]}")
            if following is None or following.shape != column.shape or following.dtype != column.dtype:
                raise DatasetError(
                    "next_observations must be as observations are; the shapes or dtypes differ"
                )
            differs = column[1:] != following[:-1]
            unseen[:-1] |= differs.reshape(n - 1, -1).any(axis=1) & ~is_last[:-1]
        if unseen.any():
            remarks.append(
                f"{unseen.sum()} episodes were cut where the next observation is not the one that comes next"
            )
            is_last |= unseen
    if n:
        is_last[-1] = True
    return is_last
