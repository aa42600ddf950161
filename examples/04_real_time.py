"""A real-time environment: the clock does not wait for the policy.

    python examples/04_real_time.py          (needs rtgym: pip install rtgym)

`rtgym` turns a robot, or a game, into an environment whose steps take a fixed time. While the policy thinks,
the last action goes on. Its observations end with the actions still on their way, so that they hold all that
the next one depends on. The worker collects them as they are, and checks every byte with `crc_debug`.
"""

import argparse
import sys
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from tmrl.actor import ActorModule
from tmrl.memory import ReplayMemory
from tmrl.networking import RolloutWorker

try:
    import rtgym
except ImportError:
    sys.exit("this example needs rtgym: pip install rtgym")


class Cart(rtgym.RealTimeGymInterface):
    """A stand-in for a robot: a cart on a rail, which keeps its speed until it is told another."""

    def __init__(self) -> None:
        self.position = np.zeros(1, np.float32)
        self.speed = np.zeros(1, np.float32)

    def send_control(self, control: Any) -> None:
        self.speed = np.array(control, np.float32)

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.position = np.zeros(1, np.float32)
        return [self.position, self.speed], {}

    def get_obs_rew_terminated_info(self) -> Any:
        self.position = (self.position + 0.1 * self.speed).astype(np.float32)
        is_off = bool(abs(self.position[0]) > 1.0)
        return [self.position, self.speed], 1.0 - float(abs(self.position[0])), is_off, {}

    def get_observation_space(self) -> Any:
        return spaces.Tuple([spaces.Box(-2.0, 2.0, (1,)), spaces.Box(-1.0, 1.0, (1,))])

    def get_action_space(self) -> Any:
        return spaces.Box(-1.0, 1.0, (1,))

    def get_default_action(self) -> Any:
        return np.zeros(1, np.float32)


class Wander(ActorModule):
    """Acts at random."""

    def act(self, obs: Any, test: bool = False) -> Any:
        return self.action_space.sample()


def make_env() -> gymnasium.Env[Any, Any]:
    config = {
        **rtgym.DEFAULT_CONFIG_DICT,
        "interface": Cart,
        "time_step_duration": 0.02,
        "start_obs_capture": 0.02,
        "time_step_timeout_factor": 100.0,
        "ep_max_length": 25,
        "act_buf_len": 2,
    }
    return gymnasium.make("real-time-gym-v1", config=config, disable_env_checker=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a short run")
    n_episodes = 2 if parser.parse_args().smoke else 10

    memory = ReplayMemory(memory_size=10_000, batch_size=64, crc_debug=True, seed=0)
    with RolloutWorker(make_env, Wander, standalone=True, worker_id="cart", crc_debug=True) as worker:
        for _ in range(n_episodes):
            # One episode in real time. What is slow, such as sending, is left until it has ended.
            worker.collect_train_episode()
            memory.append(worker.buffer)
            worker.buffer.clear()
        worker.env.unwrapped.stop()

    batch = memory.sample()
    *_, previous_act, newest_act = batch.new_obs
    print(f"{len(memory)} transitions of {n_episodes} episodes, {memory.stats().crc_checked} checked")
    print(
        "the newest action of the history is the one just chosen:", bool((newest_act == batch.new_act).all())
    )
    print("shape of the one before it:", tuple(previous_act.shape))


if __name__ == "__main__":
    main()
