"""A memory of your own, for observations that no fixed-size row can hold.

    python examples/02_your_own_memory.py

A scanner returns a different number of distances at each step. `ScanMemory` keeps the samples as they are and
pads a batch only when it is made. `tmrl.testing.check_memory` says whether it keeps the documented interface.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tmrl.memory import TorchMemory
from tmrl.networking import Buffer
from tmrl.testing import check_memory


class ScanMemory(TorchMemory):
    """Pairs of consecutive samples; `data[i]` is transition `i`, and both of its samples are references."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Before super().__init__, which asks for the length.
        self.newest: dict[str | None, Any] = {}
        super().__init__(*args, **kwargs)

    def append_buffer(self, buffer: Buffer) -> None:
        # Samples without a stamp come from we do not know where: they follow each other in this Buffer only.
        self.newest.pop(None, None)
        for sample in buffer.memory:
            worker = sample.stamp.worker if hasattr(sample, "stamp") else None
            previous = self.newest.get(worker)
            if previous is not None and is_next(previous, sample):
                self.data.append((previous, sample))
            self.newest[worker] = sample
        del self.data[: max(0, len(self) - int(self.memory_size))]

    def __len__(self) -> int:
        return len(self.data)

    def get_transition(self, item: int) -> tuple[Any, ...]:
        previous, sample = self.data[item]
        act, obs, rew, terminated, truncated, info = sample
        return previous[1], act, np.float32(rew), obs, terminated, truncated, info

    def collate(self, batch: Sequence[Any], device: Any) -> tuple[Any, ...]:
        prev_obs, new_act, rew, new_obs, terminated, truncated = zip(*batch, strict=True)
        rest = super().collate(list(zip(new_act, rew, terminated, truncated, strict=True)), device)
        return padded(prev_obs, device), rest[0], rest[1], padded(new_obs, device), rest[2], rest[3]


def is_next(previous: Any, sample: Any) -> bool:
    """Whether two samples are consecutive steps of one episode."""
    if hasattr(previous, "stamp"):
        before, after = previous.stamp, sample.stamp
        is_same_episode = (before.epoch, before.episode) == (after.epoch, after.episode)
        return is_same_episode and before.step + 1 == after.step
    return not (previous[3] or previous[4])


def padded(scans: Sequence[Any], device: Any) -> torch.Tensor:
    """Scans of different lengths as one tensor, NaN where there is nothing."""
    rows = [torch.as_tensor(scan, device=device) for scan in scans]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=torch.nan)


def scan_buffer(rng: np.random.Generator, n_episodes: int) -> Buffer:
    """Episodes of 20 steps, as an environment with such a scanner would make them."""
    buffer = Buffer()
    for _ in range(n_episodes):
        for step in range(21):
            act = rng.normal(size=2).astype(np.float32) if step else None
            scan = rng.uniform(0.1, 5.0, size=rng.integers(1, 40)).astype(np.float32)
            buffer.append_sample((act, scan, float(scan.min()), step == 20, False, {}))
    return buffer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a short run")
    n_episodes = 5 if parser.parse_args().smoke else 500

    # One memory for the check, which fills it; another to work with.
    cautions = check_memory(ScanMemory(device="cpu", memory_size=20, batch_size=4))
    print("check_memory:", *(cautions or ["nothing to complain about"]))

    memory = ScanMemory(device="cpu", memory_size=5_000, batch_size=32)
    memory.append(scan_buffer(np.random.default_rng(0), n_episodes))
    batch = memory.sample()
    longest = max(tuple(batch[0].shape), tuple(batch[3].shape))
    print(f"{len(memory)} transitions; a batch padded to {longest[1]} distances; rewards {batch[2].dtype}")


if __name__ == "__main__":
    main()
