"""Memories as users of the documented interface write them: nothing here knows how `tmrl` works inside.

- `ColumnsMemory`: generic lists of columns; one of them says `done`, and an index that is done is redrawn.
- `FramesMemory`: a history of frames and actions, stored once by `compress_frames` and rebuilt.
- `WindowsMemory`: samples of eight fields, drawn as windows of consecutive ones.
"""

import random

import gymnasium
import numpy as np

from tmrl.memory import TorchMemory
from tmrl.util import collate_torch


class ListStorage:
    """Storage for a test's memory: transitions as they are, one in each entry of `data`."""

    def append_buffer(self, buffer):
        self.data += buffer.memory

    def __len__(self):
        return len(self.data)

    def get_transition(self, item):
        return self.data[item]


class ColumnsMemory(TorchMemory):
    def __init__(
        self,
        memory_size=1e6,
        batch_size=1,
        dataset_path="",
        nb_steps=1,
        sample_preprocessor=None,
        crc_debug=False,
        device="cpu",
    ):
        super().__init__(
            memory_size=memory_size,
            batch_size=batch_size,
            dataset_path=dataset_path,
            nb_steps=nb_steps,
            sample_preprocessor=sample_preprocessor,
            crc_debug=crc_debug,
            device=device,
        )

    def append_buffer(self, buffer):
        columns = [[sample[i] for sample in buffer.memory] for i in range(6)]
        columns.append([sample[3] or sample[4] for sample in buffer.memory])
        if not self.data:
            self.data = columns
        else:
            for i, column in enumerate(columns):
                self.data[i] += column
        to_trim = int(len(self) - self.memory_size)
        if to_trim > 0:
            for i in range(len(self.data)):
                self.data[i] = self.data[i][to_trim:]
        return self

    def __len__(self):
        if len(self.data) == 0:
            return 0
        return max(0, len(self.data[0]) - 1)

    def get_transition(self, item):
        while self.data[6][item]:
            item = random.randint(0, len(self) - 1)
        after = item + 1
        return (
            self.data[1][item],
            self.data[0][after],
            self.data[2][after],
            self.data[1][after],
            self.data[3][after],
            self.data[4][after],
            self.data[5][after],
        )


def last_done(flags):
    """The place of the last true flag, or None."""
    return next((i for i in reversed(range(len(flags))) if flags[i]), None)


def pad_before_reset(history, flags):
    """Replaces what is older than the last reset in a history by the first entry after it."""
    done = last_done(flags[:-1])
    if done is not None:
        history[: done + 1] = [history[done + 1]] * (done + 1)
    return history


def compress_frames(act, obs, rew, terminated, truncated, info):
    speed, frames, _ = obs
    return act, (speed, frames[-1]), np.float32(rew), terminated, truncated, info


class FramesMemory(TorchMemory):
    def __init__(self, *args, frames=4, **kwargs):
        self.frames = frames
        super().__init__(*args, **kwargs)

    def append_buffer(self, buffer):
        first = self.data[0][-1] + 1 if self.data else 0
        new = [
            [first + i for i in range(len(buffer.memory))],
            [sample[0] for sample in buffer.memory],
            [sample[1][0] for sample in buffer.memory],
            [sample[1][1] for sample in buffer.memory],
            [sample[3] or sample[4] for sample in buffer.memory],
            [sample[2] for sample in buffer.memory],
            [sample[5] for sample in buffer.memory],
            [sample[3] for sample in buffer.memory],
            [sample[4] for sample in buffer.memory],
        ]
        if self.data:
            for i, entries in enumerate(new):
                self.data[i] += entries
        else:
            for entries in new:
                self.data.append(entries)
        to_trim = int(len(self) - self.memory_size)
        if to_trim > 0:
            self.data = [column[to_trim:] for column in self.data]
        return self

    def __len__(self):
        if not self.data:
            return 0
        return max(0, len(self.data[0]) - self.frames)

    def get_transition(self, item):
        last = item + self.frames - 1
        if self.data[4][last]:
            if item == 0:
                item += 1
            elif item == len(self) - 1 or random.random() < 0.5:
                item -= 1
            else:
                item += 1
            last = item + self.frames - 1
        now = last + 1
        return (
            self.observation(last),
            self.data[1][now],
            self.data[5][now],
            self.observation(now),
            self.data[7][now],
            self.data[8][now],
            self.data[6][now],
        )

    def observation(self, at):
        begin = at - self.frames + 1
        images = pad_before_reset(self.data[3][begin : at + 1], self.data[4][begin : at + 1])
        return self.data[2][at], np.stack(images), self.data[1][at]


class WindowsMemory(TorchMemory):
    def append_buffer(self, buffer):
        self.data += buffer.memory
        del self.data[: max(0, len(self.data) - int(self.memory_size))]

    def __len__(self):
        return len(self.data)

    def __getitem__(self, item):
        act, obs, rew, terminated, truncated, _, log_probability, value = self.data[item]
        flags = np.float32(terminated), np.float32(truncated)
        return obs, act, np.float32(rew), *flags, log_probability, value, item

    def get_transition(self, item):
        raise NotImplementedError

    def sample_indices(self):
        first = random.randint(0, max(0, len(self) - self.batch_size))
        return tuple(range(first, min(len(self), first + self.batch_size)))

    def collate(self, batch, device):
        names = ("obs", "act", "rew", "terminated", "truncated", "log_probability", "value", "item")
        return {name: part[None] for name, part in zip(names, collate_torch(batch, device), strict=True)}


class FramesEnv(gymnasium.Env):
    """Observes a speed, its newest four frames and its last action, as real-time environments do."""

    observation_space = gymnasium.spaces.Tuple(
        (
            gymnasium.spaces.Box(-1e6, 1e6, (1,), np.float32),
            gymnasium.spaces.Box(0, 255, (4, 2, 3), np.uint8),
            gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32),
        )
    )
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self):
        self.default_action = np.zeros(2, np.float32)
        self.rng = np.random.default_rng(0)
        self.episode = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode += 1
        self.step_count = 0
        self.history = [self.frame()] * 4
        return self.observe(self.default_action), {}

    def step(self, action):
        self.step_count += 1
        self.history = [*self.history[1:], self.frame()]
        terminated = self.step_count == 3 + self.episode % 5
        return self.observe(action), float(self.rng.random()), terminated, False, {}

    def frame(self):
        return self.rng.integers(0, 256, (2, 3)).astype(np.uint8)

    def observe(self, action):
        speed = self.rng.random(1).astype(np.float32)
        return speed, np.stack(self.history), np.asarray(action, np.float32)
