"""Timing of several contenders in turns, so that whatever disturbs the machine disturbs all of them alike."""

import gc
from collections.abc import Callable, Mapping
from statistics import median
from time import perf_counter
from typing import Any

MIN_ROUNDS = 5


def interleaved(
    calls: Mapping[str, Callable[[], Any]], rounds: int, turn_s: float = 0.004, budget_s: float = 15
) -> dict[str, float]:
    """Median seconds per call of each contender, over `rounds` rounds of A B C, B C A, C A B, ...

    A turn is as many calls as fill about `turn_s`. Each result is held until the next one exists, as a
    training loop does. When `budget_s` is used up, five rounds are enough.
    """
    repeats = {name: _repeats(call, turn_s) for name, call in calls.items()}
    durations: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    gc.collect()
    end = perf_counter() + budget_s
    for done in range(rounds):
        if done >= MIN_ROUNDS and perf_counter() > end:
            break
        for name in order:
            durations[name].append(_turn(calls[name], repeats[name]))
        order.append(order.pop(0))
    return {name: median(values) for name, values in durations.items()}


def _turn(call: Callable[[], Any], repeats: int) -> float:
    held = call()
    start = perf_counter()
    for _ in range(repeats):
        held = call()
    duration = perf_counter() - start
    del held
    return duration / repeats


def _repeats(call: Callable[[], Any], turn_s: float) -> int:
    seconds = min(_turn(call, 1) for _ in range(4))
    return max(1, round(turn_s / seconds))
