"""End to end: the cost of CRC debugging, and the share of sampling in SAC training on Pendulum."""

from statistics import median
from time import perf_counter
from typing import Any

from workloads import Leaf, Workload, samples

from tmrl.integrity import transition_crcs
from tmrl.memory import ReplayMemory
from tmrl.networking import Buffer

PENDULUM = Workload(
    "Pendulum-v1", "three floats, action of 1", (Leaf("float32", (3,)),), Leaf("float32", (1,)), 100_000, 200
)


def measure_crc(workload: Workload, batches: int = 200) -> float:
    """Median seconds for a checked batch of 256."""
    memory = ReplayMemory(memory_size=workload.capacity, batch_size=256, crc_debug=True, seed=0)
    for number in range(workload.episodes_to_fill):
        buffer = Buffer()
        buffer.memory = _with_checksums(samples(workload.episode(number)))
        memory.append(buffer)
    return median(_seconds(memory.sample)[0] for _ in range(batches))


def _with_checksums(plain: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    prev_obs = None
    checked = []
    for step, (act, obs, rew, terminated, truncated, _) in enumerate(plain):
        fields = transition_crcs(prev_obs, act, obs, rew, terminated, truncated)
        record = {"worker": "bench", "episode": 0, "step": step, "fields": fields}
        checked.append((act, obs, rew, terminated, truncated, {"crc": record}))
        prev_obs = obs
    return checked


def measure_training(batches: int = 200) -> dict[str, float]:
    """Median seconds of sampling 256 transitions and of the SAC update that follows."""
    import gymnasium

    from tmrl.agents.sac import SACAgent

    memory = ReplayMemory(memory_size=PENDULUM.capacity, batch_size=256, nb_steps=batches, seed=0)
    for number in range(PENDULUM.episodes_to_fill):
        buffer = Buffer()
        buffer.memory = samples(PENDULUM.episode(number))
        memory.append(buffer)
    with gymnasium.make("Pendulum-v1") as env:
        agent = SACAgent(env.observation_space, env.action_space)
    durations = []
    for _ in range(batches):
        sampling, batch = _seconds(memory.sample)
        training, _ = _seconds(agent.train, batch)
        durations.append((sampling, training))
    sampling, training = (median(values) for values in zip(*durations[batches // 10 :], strict=True))
    return {"sampling": sampling, "training": training}


def _seconds(call: Any, *args: Any) -> tuple[float, Any]:
    start = perf_counter()
    result = call(*args)
    return perf_counter() - start, result
