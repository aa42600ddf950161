"""Damage to files, as a failing disk or an interrupted copy does it."""

from pathlib import Path

import numpy as np


def damage(file: Path, rng: np.random.Generator, is_cut: bool) -> bytes:
    """Flips one bit of a file, or cuts it off anywhere; returns what it holds now."""
    damaged = bytearray(file.read_bytes())
    if is_cut:
        del damaged[rng.integers(len(damaged)) :]
    else:
        damaged[rng.integers(len(damaged))] ^= 1 << int(rng.integers(8))
    file.write_bytes(damaged)
    return bytes(damaged)
