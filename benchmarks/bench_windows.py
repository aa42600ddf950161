"""Sequences, n-step returns and stacks of frames, beside what peers have of these."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, count
from typing import Any

import numpy as np
import window_peers as peers
from numpy.typing import NDArray
from timing import interleaved
from window_peers import Peer
from workloads import Episode, Workload, one_frame, samples

from tmrl.memory import FrameStack, NStep, ReplayMemory, Sequence, Window
from tmrl.networking import Buffer
from tmrl.transition import Sample, Stamp

OURS, INTERLEAVED = "tmrl", "tmrl, from 8 streams in turns"
TORCHRL, FLASHBAX = "TorchRL, SliceSampler", "Flashbax, trajectory buffer"
STABLE_BASELINES3, CPPRB_N_STEP = "Stable-Baselines3, NStepReplayBuffer", "cpprb, Nstep"
CPPRB_STACKS = "cpprb, stack_compress"
LENGTH, SEQUENCES, BATCH_SIZE = 64, 32, 256
STEPS, DISCOUNT, FRAMES = 3, 0.99, 4
STREAMS, CHUNK = 8, 20

SEQUENCES_DRAWN = f"{SEQUENCES} sequences of {LENGTH} steps, W1"
RETURNS_DRAWN = f"{BATCH_SIZE} returns of {STEPS} steps, W1"
STACKS_DRAWN = f"{BATCH_SIZE} stacks of {FRAMES} frames, single frames of W2"


def measure(vectors: Workload, stacked: Workload, rounds: int) -> dict[str, dict[str, float]]:
    """What is drawn to contender to seconds per batch; of `stacked` the first frame of each is stored."""
    return {
        SEQUENCES_DRAWN: _measure(_sequences(vectors), vectors, rounds),
        RETURNS_DRAWN: _measure(_returns(vectors), vectors, rounds),
        STACKS_DRAWN: _measure(_stacks(one_frame(stacked)), one_frame(stacked), rounds),
    }


Contenders = dict[str, tuple[Peer, range]]
"""Name to contender, and how many steps may lie between two observations of a window that are neighbours."""


def _sequences(workload: Workload) -> Contenders:
    window, one_step = Sequence(LENGTH), range(1, 2)
    over_ends = range(1, 3)  # the observation that ends an episode is not stored
    size = (LENGTH, SEQUENCES)
    return {
        OURS: (_ours(workload, window, SEQUENCES), one_step),
        INTERLEAVED: (_ours(workload, window, SEQUENCES, STREAMS), one_step),
        TORCHRL: (peers.torchrl_slices(workload, _episodes(workload), *size), one_step),
        FLASHBAX: (peers.flashbax_trajectories(workload, _episodes(workload), *size), over_ends),
    }


def _returns(workload: Workload) -> Contenders:
    window, up_to_three = NStep(STEPS, DISCOUNT), range(1, STEPS + 1)
    settings = (STEPS, DISCOUNT, BATCH_SIZE)
    return {
        OURS: (_ours(workload, window, BATCH_SIZE), up_to_three),
        INTERLEAVED: (_ours(workload, window, BATCH_SIZE, STREAMS), up_to_three),
        STABLE_BASELINES3: (
            peers.stable_baselines3_n_step(workload, _episodes(workload), *settings),
            up_to_three,
        ),
        CPPRB_N_STEP: (peers.cpprb_n_step(workload, _episodes(workload), *settings), up_to_three),
    }


def _stacks(workload: Workload) -> Contenders:
    at_most_one = range(2)  # none where a stack is padded
    return {
        OURS: (_ours(workload, FrameStack(FRAMES), BATCH_SIZE), at_most_one),
        CPPRB_STACKS: (peers.cpprb_stacks(workload, _episodes(workload), FRAMES, BATCH_SIZE), at_most_one),
    }


def _measure(contenders: Contenders, workload: Workload, rounds: int) -> dict[str, float]:
    places = _Places(workload)
    for name, (peer, steps) in contenders.items():
        places.check(name, peer.observations(peer.draw()), steps)
    return interleaved({name: peer.draw for name, (peer, _) in contenders.items()}, rounds, budget_s=25)


class _Places:
    """Where in all episodes an observation stands, told by its first bytes, which are random."""

    def __init__(self, workload: Workload) -> None:
        keys = np.concatenate([_keys(episode.obs[0]) for episode in _episodes(workload)])
        self._order = np.argsort(keys)
        self._keys = keys[self._order]

    def check(self, name: str, observations: NDArray[Any], steps: range) -> None:
        """Compares the observations of a batch with what was stored.

        Raises:
            AssertionError: An observation was never stored, or one does not follow the other.
        """
        n, k = observations.shape[:2]
        keys = _keys(observations.reshape(n * k, -1))
        found = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
        if not (self._keys[found] == keys).all():
            raise AssertionError(f"{name}: an observation was never stored")
        between = np.diff(self._order[found].reshape(n, k))
        if not np.isin(between, steps).all():
            raise AssertionError(f"{name}: from one observation to the next {np.unique(between)} steps")


def _keys(observations: NDArray[Any]) -> NDArray[np.int64]:
    rows = np.ascontiguousarray(observations).reshape(len(observations), -1).view(np.uint8)
    return np.ascontiguousarray(rows[:, :8]).view(np.int64)[:, 0]


def _episodes(workload: Workload) -> Iterator[Episode]:
    return (workload.episode(number) for number in range(workload.episodes_to_fill))


def _ours(workload: Workload, window: Window, batch_size: int, streams: int = 1) -> Peer:
    memory = ReplayMemory(memory_size=workload.capacity, batch_size=batch_size, seed=0, window=window)
    for samples_of in _chunks(workload, streams):
        buffer = Buffer()
        buffer.memory = list(samples_of)
        memory.append(buffer)
    return Peer(memory.sample, _observed(window))


def _observed(window: Window) -> Callable[[Any], NDArray[Any]]:
    """The observations of a batch of ours whose order is known."""
    if isinstance(window, FrameStack):
        return lambda batch: batch[0].numpy()
    if isinstance(window, NStep):
        return lambda batch: np.stack([batch[0], batch[3]], 1)
    return lambda batch: batch[0].numpy()[batch.mask.numpy().all(1)]


def _chunks(workload: Workload, streams: int) -> Iterator[Iterable[Any]]:
    """Whole episodes of one stream, or a few steps of each of several in turns."""
    if streams == 1:
        yield from map(samples, _episodes(workload))
        return
    sources = [_stream(workload, f"worker-{i}") for i in range(streams)]
    for _ in range(workload.capacity // (CHUNK * streams) + 1):
        for source in sources:
            yield [next(source) for _ in range(CHUNK)]


def _stream(workload: Workload, worker: str) -> Iterator[Sample]:
    """Samples of one episode after the other; the arrays of four episodes come again and again."""
    four = [samples(workload.episode(number)) for number in range(4)]
    length = workload.episode_length + 1
    for step, values in enumerate(chain.from_iterable(four[number % 4] for number in count())):
        yield Sample(values, Stamp(worker, 0, step, step // length, step % length))
