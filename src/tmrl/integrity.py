"""Exact checksums of transitions, for CRC debugging from the worker's eyes to the batch.

One CRC32 per leaf, over the leaf's dtype, shape and raw bytes, after the declared casts (rewards and flags
are float32) and before any compressor. The worker puts them into the sample's `info["crc"]`:

    {"worker": "robot-1", "episode": 3, "step": 1041, "fields": {"prev_obs/speed": 0x1c291ca3, ...}}

and the memory computes them anew from what it is about to hand out. A reset sample has only its `obs` leaves.
"""

from functools import lru_cache
from typing import Any, TypedDict
from zlib import crc32

import numpy as np

from tmrl.errors import IntegrityError
from tmrl.nest import as_array, flatten, leaf_names


class CrcRecord(TypedDict):
    """What a worker in CRC mode puts into `info["crc"]`."""

    worker: str
    episode: int
    step: int
    fields: dict[str, int]


@lru_cache(maxsize=1024)
def crc_seed(dtype_name: str, shape: tuple[int, ...]) -> int:
    """CRC32 of a leaf's dtype and shape, with which the CRC32 of its bytes goes on."""
    return crc32(f"{dtype_name}{shape}".encode())


def leaf_crc(leaf: Any, name: str = "a leaf") -> int:
    """CRC32 of one array, number, text or None: its dtype, its shape and its bytes in C order.

    Raises:
        IntegrityError: It is an object, whose bytes are an address; the message calls it by `name`.
    """
    if leaf is None:
        return crc32(b"None")
    array, is_bfloat16 = as_array(leaf)
    if array.dtype.hasobject:
        raise IntegrityError(
            f"{name} must be made of arrays, numbers and text to be checked bit by bit, got a "
            f"{type(leaf).__name__}; leave it out in an obs_preprocessor, or switch crc_debug off"
        )
    dtype_name = "bfloat16" if is_bfloat16 else array.dtype.name
    return crc32(array.tobytes(), crc_seed(dtype_name, array.shape))


def nest_crcs(prefix: str, nest: Any) -> dict[str, int]:
    """CRC32 of every leaf of a nest, by leaf name."""
    leaves, treespec = flatten(nest)
    names = leaf_names(prefix, treespec)
    return {name: leaf_crc(leaf, name) for name, leaf in zip(names, leaves, strict=True)}


def transition_crcs(
    prev_obs: Any, act: Any, obs: Any, rew: Any, terminated: Any, truncated: Any
) -> dict[str, int]:
    """CRC32 of every leaf of a transition, by leaf name; rewards and flags as float32."""
    fields = nest_crcs("prev_obs", prev_obs) | nest_crcs("act", act) | nest_crcs("obs", obs)
    fields["rew"] = leaf_crc(np.float32(rew))
    fields["terminated"] = leaf_crc(np.float32(terminated))
    fields["truncated"] = leaf_crc(np.float32(truncated))
    return fields


def check_transition(
    info: Any, prev_obs: Any, act: Any, obs: Any, rew: Any, terminated: Any, truncated: Any
) -> None:
    """Compares one transition with the checksums that its worker put into `info["crc"]`.

    Raises:
        IntegrityError: There are none, or a leaf differs; the message names leaf, worker, episode and step.
    """
    record = crc_record(info)
    found = transition_crcs(prev_obs, act, obs, rew, terminated, truncated)
    expected = record["fields"]
    if found != expected:
        names = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
        raise IntegrityError(mismatch(names, record["worker"], record["episode"], record["step"]))


def crc_record(info: Any) -> CrcRecord:
    """The checksums in a sample's info.

    Raises:
        IntegrityError: There are none, because the worker was not in CRC mode, or they are malformed.
    """
    if not isinstance(info, dict) or "crc" not in info:
        raise IntegrityError(
            'a sample carries no info["crc"]: its worker was not in CRC mode; give RolloutWorker '
            "crc_debug=True too, and keep the info in the sample_compressor"
        )
    record: Any = info["crc"]
    if not isinstance(record, dict) or not CrcRecord.__required_keys__ <= record.keys():
        raise IntegrityError(
            f'info["crc"] must be a dict of {sorted(CrcRecord.__required_keys__)}, got {record!r}; '
            "leave that key to the worker"
        )
    return record  # pyright: ignore[reportReturnType]


def mismatch(names: list[str], worker: str, episode: int, step: int) -> str:
    """The message for leaves whose bytes are not the ones that the worker saw."""
    verb = "is" if len(names) == 1 else "are"
    return (
        f"{', '.join(names)} of step {step} (episode {episode}) of worker {worker!r} {verb} not what the "
        "worker saw: the checksum differs; a sample_compressor, get_transition or something between them "
        "changed it"
    )
