"""Streams of whole observations with histories in them, made by plain loops, and what is sent of them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optree
from hypothesis import strategies as st

from machines import FakeWorker
from nests import LeafSpec, arrays, fill
from tmrl.compressor import Compressor
from tmrl.memory import ActionBuffer, History, Latest, Quantized, Stacked
from tmrl.stamping import add_checksums
from tmrl.transition import Sample

CODES = [Quantized(), Quantized("int8", 100.0, "float64"), Quantized("uint16", 1000.0)]

rules = (
    st.just(Latest())
    | st.sampled_from(CODES)
    | st.builds(Stacked, st.integers(1, 5), st.just(Latest()) | st.sampled_from(CODES))
)


@dataclass(frozen=True)
class Plan:
    """One part of an observation: its rule, and what a frame of it looks like."""

    rule: Any
    frame: Any

    def new_frame(self, rng: np.random.Generator) -> Any:
        if self.rule.codec is None:
            return np.asarray(self.frame.value(rng, False))
        codec = self.rule.codec
        lowest = max(np.iinfo(codec.dtype).min, -100)
        return rng.uniform(lowest / codec.scale, 100 / codec.scale, self.frame.shape).astype(codec.restored)


plans = st.builds(Plan, rules, arrays)
nests_of_plans = plans | st.dictionaries(st.sampled_from(["a", "b", "~/"]), plans, min_size=1, max_size=2)


@dataclass(frozen=True)
class Shape:
    """What observations of one history look like."""

    parts: Any
    n_actions: int
    act: Any
    has_default: bool

    @property
    def history(self) -> History:
        spec = optree.tree_map(lambda plan: plan.rule, self.parts)
        return History((*spec, ActionBuffer(self.n_actions)) if self.n_actions else spec)


acts = st.builds(LeafSpec, st.sampled_from(["float32", "int64", "bool"]), st.just((2,)) | st.just(()))
shapes = st.builds(
    Shape, nests_of_plans, st.just(0), acts | st.fixed_dictionaries({"gas": acts}), st.booleans()
) | st.builds(
    Shape,
    st.lists(nests_of_plans, min_size=1, max_size=3).map(tuple),
    st.integers(0, 4),
    acts | st.fixed_dictionaries({"gas": acts}),
    st.booleans(),
)


@dataclass
class Stream:
    """An environment: keeps every frame and every action of the episode in lists, and looks back."""

    shape: Shape
    seed: int
    made: int = 0
    frames: list[Any] = field(default_factory=list)
    actions: list[Any] = field(default_factory=list)

    def __call__(self, is_reset: bool, terminated: bool = False, truncated: bool = False) -> tuple[Any, ...]:
        self.made += 1
        rng = np.random.default_rng((self.seed, self.made))
        frame = optree.tree_map(lambda plan: plan.new_frame(rng), self.shape.parts)
        act = fill(self.shape.act, rng, is_finite=True)
        if is_reset:
            self.frames, self.actions = [frame] * 9, [act] * 9
        else:
            self.frames.append(frame)
            self.actions.append(act)
        sent = None if is_reset and not self.shape.has_default else act
        return sent, self.observation(), float(self.made), terminated, truncated, {}

    def observation(self) -> Any:
        def look_back(plan: Plan, *frames: Any) -> Any:
            return np.stack(frames[-plan.rule.k :]) if plan.rule.depth else frames[-1]

        obs = optree.tree_map(look_back, self.shape.parts, *self.frames)
        n = self.shape.n_actions
        return (*obs, *self.actions[-n:]) if n else obs

    def rounded(self, obs: Any) -> Any:
        """What may be expected of an observation: quantized leaves are rounded, and no other."""
        n = self.shape.n_actions

        def rounded(plan: Plan, leaf: Any) -> Any:
            codec = plan.rule.codec
            if codec is None:
                return leaf
            # Integers have no negative zero.
            codes = np.rint(leaf.astype(np.float64) * codec.scale).astype(np.int64)
            return codes.astype(codec.restored) / np.dtype(codec.restored).type(codec.scale)

        rest = optree.tree_map(rounded, self.shape.parts, obs[:-n] if n else obs)
        return (*rest, *obs[-n:]) if n else rest


class HistoryWorker(FakeWorker):
    """Produces samples of whole observations; each has `compressed`, what a worker sends of it."""

    make: Stream

    def __init__(self, name: str, make: Stream) -> None:
        self.previous: Any = None
        super().__init__(name, make)

    def restart(self) -> None:
        super().restart()
        self.compressor = Compressor(self.make.shape.history)

    def produce(self, ending: str) -> Sample:
        if ending == "uncollected" and self.episode >= 0:
            self.previous = self.make.rounded(self.make(is_reset=False)[1])
        sample = super().produce(ending)
        act, obs, *others, _ = sample
        expected: tuple[Any, ...] = (act, self.make.rounded(obs), *others)
        info: dict[str, Any] = {}
        add_checksums(info, sample.stamp, self.previous, expected, crc_samples=False)
        self.previous = expected[1]
        whole = Sample((*expected, info), sample.stamp)
        whole.compressed = Sample(self.compressor((act, obs, *others, info), sample.stamp), sample.stamp)  # type: ignore[attr-defined]
        return whole
