"""The declaration of a history, and the worker's side of it: what is sent, what is refused, and why."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from dummies import CountingActor, CountingEnv
from tmrl.compressor import Compressor
from tmrl.errors import DatasetError, HistoryError
from tmrl.memory import ActionBuffer, History, Latest, Quantized, Stacked
from tmrl.networking import RolloutWorker
from tmrl.transition import Stamp

LIDAR = History((Latest(), Stacked(3), ActionBuffer(2)))
NO_ACTION = np.zeros(1, np.float32)


def stamp(episode_step: int, step: int | None = None, episode: int = 0) -> Stamp:
    return Stamp("cart", 0, episode_step if step is None else step, episode, episode_step)


def number(value: float) -> Any:
    return np.array([value], np.float32)


def observation(step: int, actions: tuple[float, float] | None = None) -> Any:
    """Of a robot whose lidar sees the number of the step, and whose policy acts with it."""
    lidar = np.stack([number(max(0, step - back)) for back in (2, 1, 0)])
    entries = actions or (max(0, step - 1), step)
    return (number(step), lidar, *map(number, entries))


def sample(step: int, obs: Any = None) -> tuple[Any, ...]:
    return (number(step), observation(step) if obs is None else obs, 0.0, False, False, {})


class TestCompressor:
    def test_what_earlier_samples_hold_is_left_out(self) -> None:
        compressor = Compressor(LIDAR)
        for step in range(4):
            act, obs, *others = compressor(sample(step), stamp(step))
            assert (act, [part.tolist() for part in obs]) == (number(step), [[step], [step]])
            assert others == [0.0, False, False, {}]

    def test_one_frame_is_sent_as_a_copy_of_its_own(self) -> None:
        stack = np.zeros((4, 84, 84), np.uint8)
        _, frame, *_ = Compressor(History(Stacked(4)))((None, stack), stamp(0))
        assert frame.shape == (84, 84)
        assert frame.base is None

    def test_tensors_stay_tensors(self) -> None:
        stack = torch.ones((2, 3), dtype=torch.bfloat16)
        _, frame = Compressor(History(Stacked(2)))((None, stack), stamp(0))
        assert frame.dtype == torch.bfloat16
        assert frame.shape == (3,)

    def test_a_reset_without_an_action_gets_the_one_that_fills_the_buffer(self) -> None:
        _, obs, *_ = sample(0, observation(0, (-5, -5)))
        assert Compressor(LIDAR)((None, obs), stamp(0))[0] == number(-5)

    def test_a_stack_of_zeros_at_a_reset_is_refused(self) -> None:
        obs = observation(0)
        obs[1][2] = 7.0
        message = (
            r"obs/1 of step 0 \(step 0 of episode 0\) of worker 'cart' must hold the first frame, repeated, "
            r"in front of the newest: expected float32 \[\[7.0\], \[7.0\]\], found float32 "
            r"\[\[0.0\], \[0.0\]\]; have the wrapper repeat the first frame .*, or declare Latest\(\)"
        )
        with pytest.raises(HistoryError, match=message):
            Compressor(LIDAR)(sample(0, obs), stamp(0))

    def test_a_stack_that_does_not_shift_by_one_is_refused(self) -> None:
        compressor = Compressor(History(Stacked(2)))
        compressor((None, np.zeros((2, 30), np.float32)), stamp(0))
        stack = np.zeros((2, 30), np.float32)
        stack[0, 17] = 0.5
        with pytest.raises(
            HistoryError,
            match=r"obs of step 1 .* expected 0.0 at \[0, 17\], found 0.5 at \[0, 17\]; have the",
        ):
            compressor((NO_ACTION, stack), stamp(1))

    def test_an_action_buffer_that_a_reset_leaves_is_refused(self) -> None:
        """rtgym with reset_act_buf=False."""
        message = (
            r"obs/2 of step 0 .* must hold the action of the reset: expected float32 \[0.0\], found float32 "
            r"\[3.0\]; have the environment fill its buffer at a reset, as rtgym does with reset_act_buf=True"
        )
        with pytest.raises(HistoryError, match=message):
            Compressor(LIDAR)(sample(0, observation(0, (3, 0))), stamp(0))
        with pytest.raises(HistoryError, match="must hold the action of the reset"):
            Compressor(LIDAR)((None, observation(0, (3, 0))), stamp(0))

    @pytest.mark.parametrize("entries", [(9, 1), (0, 9)])
    def test_an_action_that_was_never_chosen_is_refused(self, entries: tuple[int, int]) -> None:
        compressor = Compressor(LIDAR)
        compressor(sample(0), stamp(0))
        with pytest.raises(
            HistoryError,
            match=r"must hold the actions that led here, newest last: .* found float32 \[9.0\]; have",
        ):
            compressor(sample(1, observation(1, entries)), stamp(1))

    def test_an_action_of_another_dtype_is_refused(self) -> None:
        with pytest.raises(HistoryError, match=r"expected float64 \[0.0\], found float32 \[0.0\]"):
            Compressor(LIDAR)((np.zeros(1), observation(0)), stamp(0))

    def test_nothing_can_be_said_of_what_came_before_a_gap(self) -> None:
        """Steps that were not collected; the memory waits until it has all rows of a stack."""
        compressor = Compressor(LIDAR)
        compressor(sample(0), stamp(0))
        compressor(sample(5), stamp(5, step=1, episode=1))
        with pytest.raises(HistoryError, match="the newest frames of the observation before"):
            compressor(sample(8), stamp(6, step=2, episode=1))

    def test_after_a_refusal_it_goes_on_as_after_a_gap(self) -> None:
        compressor = Compressor(History(Stacked(2)))
        with pytest.raises(HistoryError, match="the first frame, repeated"):
            compressor((None, np.arange(2)), stamp(0))
        assert compressor((None, np.arange(1, 3)), stamp(1))[1] == 2

    @pytest.mark.parametrize(
        ("history", "obs", "message"),
        [
            (
                History(Stacked(4)),
                np.zeros((3, 2)),
                r"obs must hold 4 frames .* got shape \(3, 2\); declare the k",
            ),
            (History(Stacked(4)), 1.0, r"to be Stacked\(4\), got shape \(\)"),
            (
                History(Quantized()),
                np.zeros(2),
                "obs must be float32 to be Quantized, got float64; say so with",
            ),
            (
                History(Quantized()),
                np.float32([0.5, 1.1]),
                r"obs must lie in \[0, 1\] to be Quantized as uint8, got 1.10.*; scale it in an",
            ),
            (History(Quantized()), np.float32([np.nan]), r"must lie in \[0, 1\] .* got nan"),
            (
                History((Latest(), ActionBuffer(2))),
                (NO_ACTION,),
                r"obs must be a tuple or a list of at least 2 entries .* got a tuple of 1; leave the",
            ),
            (History((ActionBuffer(2),)), {"a": 1}, "got a dict; leave the ActionBuffer out"),
            (
                History((Latest(),)),
                (NO_ACTION, NO_ACTION),
                r"obs/1 has no rule in .*; declare Latest\(\) for",
            ),
            (History({"a": Latest()}), {"b": NO_ACTION}, "obs/b has no rule in"),
            (History((Latest(),)), {"b": NO_ACTION}, "obs/b has no rule in"),
            (
                History((Latest(),)),
                NO_ACTION,
                "obs is one array, but the spec of .* goes further down; put a rule",
            ),
            (
                History((Latest(), Latest())),
                (NO_ACTION,),
                "obs has 1 leaves .* none for Latest.*; nest the spec",
            ),
        ],
    )
    def test_observations_of_another_shape_are_refused(self, history: Any, obs: Any, message: str) -> None:
        with pytest.raises(HistoryError, match=message):
            Compressor(history)((NO_ACTION, obs), stamp(0))


class TestQuantized:
    def test_images_made_of_bytes_come_back_bit_by_bit(self) -> None:
        codes = np.arange(256, dtype=np.uint8)
        image = codes.astype(np.float32) / 255
        kept = Quantized().encode(image, "obs")
        assert (kept == codes).all()
        assert Quantized().decode(kept).tobytes() == image.tobytes()

    def test_others_come_back_rounded_to_the_nearest(self) -> None:
        rule = Quantized("int16", 1000.0, "float64")
        values = np.random.default_rng(0).uniform(-32, 32, 1000)
        found = rule.decode(rule.encode(values, "obs"))
        assert found.dtype == np.float64
        assert abs(found - values).max() <= 0.0005 + 1e-12


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Stacked(0), ValueError, "k must be at least 1, got 0"),
        (lambda: ActionBuffer(0), ValueError, "k must be at least 1, got 0"),
        (
            lambda: Stacked(2, Stacked(2)),
            TypeError,
            r"frames must be Latest\(\) or Quantized\(\), got Stacked",
        ),
        (
            lambda: Quantized("float32"),
            ValueError,
            "dtype must be one of uint8, int8, uint16, int16, got float32",
        ),
        (
            lambda: Quantized(restored="int8"),
            ValueError,
            "restored must be one of float32, float64, got int8",
        ),
        (lambda: Quantized(scale=0), ValueError, "scale must be above 0 and finite, got 0"),
        (lambda: History([Latest()]), TypeError, r"spec must be a rule .* got \[Latest\(\)\]"),
        (lambda: History({"a": 4}), TypeError, r"spec\['a'\] must be a rule .* got 4"),
        (
            lambda: History(ActionBuffer(2)),
            ValueError,
            "must be the last entry of the outermost tuple, got one at spec;",
        ),
        (lambda: History((ActionBuffer(2), Latest())), ValueError, r"got one at spec\[0\]; move it there"),
        (lambda: History({"a": (ActionBuffer(2),)}), ValueError, r"got one at spec\['a'\]\[0\]"),
    ],
)
def test_what_is_no_history_is_refused(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    "history",
    [
        LIDAR,
        History(Stacked(4, Quantized(np.int8, 100, np.float64))),
        History({"camera": Quantized(), "arms": (Latest(), Stacked(2))}),
    ],
)
def test_a_history_is_written_as_json(history: History) -> None:
    assert History.from_json(json.loads(json.dumps(history.to_json()))) == history


def test_a_document_that_is_no_history_is_refused() -> None:
    for document in ({"kind": "Path"}, 3, {"tuple": [{"kind": "Stacked"}]}):
        with pytest.raises(DatasetError, match="a saved history must be what this package writes, but: "):
            History.from_json(document)


class TestWorker:
    def test_two_ways_to_compress_are_refused(self) -> None:
        with pytest.raises(
            ValueError, match="a worker compresses one way, got history= and sample_compressor="
        ):
            RolloutWorker(
                CountingEnv, CountingActor, lambda *six: six, standalone=True, history=History(Latest())
            )

    def test_a_history_that_the_observations_do_not_have_stops_the_worker(self) -> None:
        worker = RolloutWorker(CountingEnv, CountingActor, standalone=True, history=History(Stacked(2)))
        with pytest.raises(HistoryError, match="obs of step"):
            worker.collect_train_episode()
