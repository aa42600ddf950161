"""What the flags of a run stand for: its agent, its policy, and the memory that they learn from."""

import logging
from collections.abc import Mapping
from typing import Any

from gymnasium.spaces import Discrete

from tmrl.actor import TorchActorModule
from tmrl.datasets import Dataset, open_dataset
from tmrl.datasets.whole import whole
from tmrl.memory import ReplayMemory
from tmrl.runs.settings import AUTO, TrainSettings
from tmrl.training import TrainingAgent

logger = logging.getLogger(__name__)

DEMO = "demo"
"""Label of what `--demos` brings."""
GAMMA = 0.99
"""Discount factor of a step, for the agents and for n-step returns."""


def agent_name(agent: str, action_space: Any) -> str:
    """The agent that `--agent` stands for: `sac`, `redq` or `dqn`."""
    if agent != AUTO:
        return agent
    return "dqn" if isinstance(action_space, Discrete) else "sac"


def make_actor(agent: str, observation_space: Any, action_space: Any) -> TorchActorModule:
    """The untrained policy of an agent.

    Raises:
        ValueError: A space does not suit; the message says why and what would.
    """
    from tmrl.agents import DQNActor, SquashedGaussianActor

    actor_cls = DQNActor if agent_name(agent, action_space) == "dqn" else SquashedGaussianActor
    return actor_cls(observation_space, action_space)


def make_agent(
    settings: TrainSettings, observation_space: Any, action_space: Any, device: Any
) -> TrainingAgent:
    """The agent of a run.

    Raises:
        ValueError: A space does not suit; the message says why and what would.
    """
    from tmrl.agents import DQNAgent, REDQAgent, SACAgent

    spaces = observation_space, action_space, device
    options: dict[str, Any] = {"gamma": GAMMA, "lr": settings.rate}
    name = agent_name(settings.agent, action_space)
    if name == "dqn":
        return DQNAgent(*spaces, epsilon_updates=max(1, settings.updates // 10), **options)
    options["layer_norm"] = settings.demo_fraction is not None
    if name == "redq":
        return REDQAgent(*spaces, policy_delay=max(1, round(settings.ratio)), **options)
    return SACAgent(*spaces, **options)


def make_memory(
    settings: TrainSettings, spaces: tuple[Any, Any], kept: Mapping[str, int] | None = None, **kwargs: Any
) -> ReplayMemory:
    """The memory of a run, with the recorded data that it begins with unless they are in its checkpoint.

    Args:
        settings: Of the run.
        spaces: Of single observations, and of actions.
        kept: What the memory of a run that goes on keeps, see `Checkpoint.kept`; None if the run begins.
        kwargs: Further arguments of `ReplayMemory`.

    Raises:
        ValueError: The memory has no room beside the demonstrations.
    """
    recorded = _recorded(settings) if kept is None else {}
    if kept is None:
        kept = _room_of_demos(settings, recorded)
    _check_memory_size(settings.memory_size, kept)
    memory = ReplayMemory(
        memory_size=settings.memory_size,
        batch_size=settings.batch_size,
        crc_debug=settings.crc_debug,
        seed=settings.seed,
        observation_space=spaces[0],
        action_space=spaces[1],
        **sampler_and_window(settings, kept),
        **kwargs,
    )
    for source, dataset in recorded.items():
        memory.append_dataset(dataset, source)
    return memory


def _recorded(settings: TrainSettings) -> dict[str | None, Dataset]:
    """What a run begins with, by the label that it gets; None leaves the data their own."""
    paths = {None: settings.dataset, DEMO: settings.demos}
    return {source: _whole_dataset(path) for source, path in paths.items() if path}


def _room_of_demos(settings: TrainSettings, recorded: Mapping[str | None, Dataset]) -> dict[str, int]:
    """What to keep so that online data never evict a demonstration that is to be in each batch."""
    return {} if settings.demo_fraction is None else {DEMO: max(1, recorded[DEMO].n_rows - 1)}


def _check_memory_size(size: float | str, kept: Mapping[str, int]) -> None:
    n = sum(kept.values())
    if not isinstance(size, str) and size <= n:
        raise ValueError(
            f"--memory-size must be above the {n:,} transitions that demonstrations take of it, got "
            f"{size:,.0f}; choose a larger one"
        )


def _whole_dataset(path: str) -> Dataset:
    """Recorded data with observations as the environment returns them, whatever history compressed them."""
    dataset, lost = whole(open_dataset(path), drop=True)
    for loss in lost:
        logger.warning("left out of %s: %s", path, loss)
    return dataset


def sampler_and_window(settings: TrainSettings, kept: Mapping[str, int]) -> dict[str, Any]:
    """How batches are drawn and what is in them, as arguments of `ReplayMemory`; nothing by default."""
    parts = {"sampler": _sampler(settings, kept), "window": _window(settings)}
    return {name: part for name, part in parts.items() if part is not None}


def _sampler(settings: TrainSettings, kept: Mapping[str, int]) -> Any:
    if settings.demo_fraction is not None:
        return _mixture(settings, settings.demo_fraction, kept)
    return _prioritized(settings) if settings.prioritized else None


def _prioritized(settings: TrainSettings) -> Any:
    from tmrl.memory import Prioritized

    return Prioritized(beta_steps=settings.updates)


def _mixture(settings: TrainSettings, demo_fraction: float, kept: Mapping[str, int]) -> Any:
    from tmrl.memory import Mixture

    shares = {"online": 1.0 - demo_fraction, DEMO: demo_fraction}
    samplers = {source: _prioritized(settings) for source in shares} if settings.prioritized else {}
    return Mixture(shares, samplers, empty="others", keep=kept)


def _window(settings: TrainSettings) -> Any:
    stack = None
    if settings.stack > 1:
        from tmrl.memory import FrameStack

        stack = FrameStack(settings.stack)
    if settings.n_step > 1:
        from tmrl.memory import NStep

        return NStep(settings.n_step, GAMMA, stack=stack)
    return stack
