"""End to end: the cost of CRC debugging, the share of sampling in SAC training on Pendulum, and prefetch."""

from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

from timing import interleaved
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


PREFETCH = 2
SAC_ON_VECTORS, DQN_ON_IMAGES = "SAC on Pendulum, batch of 256", "DQN on four frames of 84x84, batch of 32"
IMAGES = Workload(
    "images", "four frames of 84x84", (Leaf("uint8", (4, 84, 84)),), Leaf("int64", ()), 2_000, 200
)


def measure_prefetch(rounds: int) -> dict[str, dict[str, float]]:
    """What is trained to "off" and "on" to seconds to draw a batch and to train on it, all on the CPU."""
    from gymnasium.spaces import Box, Discrete

    from tmrl.agents.dqn import DQNAgent
    from tmrl.agents.sac import SACAgent

    vectors, image = Box(-8, 8, (3,)), Box(0, 255, (4, 84, 84), "uint8")
    cases: dict[str, tuple[Workload, int, Any]] = {
        SAC_ON_VECTORS: (PENDULUM, 256, SACAgent(vectors, Box(-2, 2, (1,)))),
        DQN_ON_IMAGES: (IMAGES, 32, DQNAgent(image, Discrete(6))),
    }
    found = {}
    for name, (workload, batch_size, agent) in cases.items():
        memories = {what: _filled(workload, batch_size, n) for what, n in (("off", 0), ("on", PREFETCH))}
        updates = {what: _update(agent, memory) for what, memory in memories.items()}
        found[name] = interleaved(updates, rounds, turn_s=0.2)
        for memory in memories.values():
            memory.close()
    return found


def _filled(workload: Workload, batch_size: int, prefetch: int) -> ReplayMemory:
    memory = ReplayMemory(memory_size=workload.capacity, batch_size=batch_size, seed=0, prefetch=prefetch)
    for number in range(workload.episodes_to_fill):
        buffer = Buffer()
        buffer.memory = samples(workload.episode(number))
        memory.append(buffer)
    return memory


def _update(agent: Any, memory: ReplayMemory) -> Callable[[], Any]:
    return lambda: agent.train(memory.sample())


def measure_training(batches: int = 200) -> dict[str, float]:
    """Median seconds of sampling 256 transitions and of the SAC update that follows."""
    import gymnasium

    from tmrl.agents.sac import SACAgent

    memory = _filled(PENDULUM, 256, prefetch=0)
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
