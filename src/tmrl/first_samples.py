"""What the layout of rows is, as the first samples show it: on the worker, and at the memory's door."""

from collections.abc import Collection, Sequence
from typing import Any

from tmrl.history import History
from tmrl.packing import is_reset
from tmrl.schema import Nest, Schema, infer_info


def infer_schema(
    samples: Sequence[Any],
    info_keys: Collection[str],
    with_crc: bool,
    obs: Nest | None = None,
    act: Nest | None = None,
    history: History | None = None,
) -> Schema | None:
    """The layout that samples show.

    Args:
        samples: At least one, of six values each.
        info_keys: Entries of `info` to keep.
        with_crc: Whether rows hold the worker's checksums.
        obs: The observation, if it is known.
        act: The action, if it is known.
        history: What the workers leave out of observations.

    Returns:
        None if they are reset samples that do not show all of it.

    Raises:
        SchemaError: A sample shows something that no row can hold.
        ValueError: There are steps, and none has an entry of `info_keys`.
        HistoryError: An observation is not what the history keeps.
    """
    obs = obs or Nest.infer("obs", samples[0][1])
    act = act or infer_act(samples)
    infos = [sample[5] for sample in samples]
    nests = {key: infer_info(key, infos) for key in info_keys}
    info = {key: nest for key, nest in nests.items() if nest is not None}
    missing = nests.keys() - info.keys()
    if missing and not all(is_reset(samples, index) for index in range(len(samples))):
        raise ValueError(
            f"info_keys must name entries that every step's info has, but no sample of the first Buffer has "
            f"{min(missing)!r}; leave it out, or have the environment report it at every step"
        )
    if act is None or missing:
        return None
    return Schema(obs, act, info, with_crc, history)


def infer_act(samples: Sequence[Any]) -> Nest | None:
    """The action, from the first sample that has one; None if none has."""
    act = next((sample[0] for sample in samples if sample[0] is not None), None)
    return None if act is None else Nest.infer("act", act)
