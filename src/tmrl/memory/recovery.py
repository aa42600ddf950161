"""Recovery: what is known beside the rows of a folder, brought up to date by the rows of all its rings."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tmrl.datasets.priorities import read_priorities
from tmrl.datasets.segments import ring_in
from tmrl.memory.store import Store, check_codes
from tmrl.memory.streams import HeldRows

logger = logging.getLogger(__name__)


def recover(parts: Mapping[str, Store], folder: Path, document: dict[str, Any]) -> int:
    """Takes over the rows in the files of a memory, and brings streams and counts up to date by them.

    Args:
        parts: Source to its store, all of one memory; empty.
        folder: Where the files are.
        document: The manifest, which may be older than the rows.

    Returns:
        How many rows are damaged or missing; each ring that lacks some is logged.

    Raises:
        DatasetError: The rows contradict the manifest.
    """
    next_ids = {source: int(ring_in(document, source)["next"]) for source in parts}
    held: list[HeldRows] = []
    n_lost = 0
    for source, part in parts.items():
        rows, loss = part.recover(next_ids[source])
        held.append(rows)
        n_lost += len(loss)
        if len(loss):
            where = f"{folder}, source {source}" if source else folder
            logger.warning("%s: %s; no transition uses them, all others are as they were", where, loss)
    state = document["state"]["store"]
    _bring_up_to_date(parts[""], held, list(next_ids.values()), state["streams"])
    for source, part in parts.items():
        part.restore_history(state_in(state, source))
        part.versions.note(next_ids[source], 0)  # of rows that came since the manifest it is not known
        part.rebuild(read_priorities(folder, ring_in(document, source), part.sampler.kind))
    return n_lost


def _bring_up_to_date(store: Store, held: list[HeldRows], next_ids: list[int], streams: Any) -> None:
    """Finds out by the rows of all rings where streams and counts stand, of which all stores share one."""
    store.streams.restore(streams)
    for rows in held:
        check_codes(rows.origins, 0, len(store.tally.counts))
        check_codes(rows.streams, -1, len(store.streams))
    store.streams.resume(held)
    new = [rows.origins[rows.ids >= next_id] for rows, next_id in zip(held, next_ids, strict=True)]
    store.tally.resume(np.concatenate([rows.origins for rows in held]), np.concatenate(new))


def state_in(state: dict[str, Any], source: str) -> dict[str, Any]:
    """The part of a state that the store of a kept source restores; `""` for the one of all others."""
    if not source:
        return state
    kept = state["kept"][source]
    return state | (kept if isinstance(kept, dict) else {"times": kept, "versions": []})  # until 2026-11-28
