"""The whole pipeline in Python: worker, source, memory, agent, trainer.

    python examples/05_train_sac.py

It is what `tmrl train` does, without its display and files: soft actor-critic learns Pendulum-v1 in one
process. Exchange any of the five parts for your own.
"""

import argparse
from functools import partial

import torch

from tmrl.agents import SACAgent, SquashedGaussianActor
from tmrl.envs import GenericGymEnv
from tmrl.memory import ReplayMemory
from tmrl.networking import RolloutWorker, Trainer
from tmrl.training import TorchTrainingOffline, WorkerSource


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a short run, too short to learn anything")
    is_smoke = parser.parse_args().smoke
    torch.manual_seed(0)
    torch.set_num_threads(1)  # networks this small gain little from more, and lose much where others compute
    env_cls = partial(GenericGymEnv, "Pendulum-v1", to_float32=True)

    # Acts in the environment, one sample for each reset and each step.
    worker = RolloutWorker(env_cls, SquashedGaussianActor, standalone=True, worker_id="local", seed=0)

    # Lets the worker collect when the training loop asks for samples, and gives it the new policies.
    source = WorkerSource(worker, steps_per_retrieval=50)

    # Draws a batch, trains on it, and never takes more than one step a sample.
    training_cls = partial(
        TorchTrainingOffline,
        env_cls,
        partial(ReplayMemory, memory_size=100_000, batch_size=64 if is_smoke else 256, seed=0),
        partial(SACAgent, lr=1e-3),
        epochs=1 if is_smoke else 15,
        rounds=1,
        steps=50 if is_smoke else 500,
        start_training=100 if is_smoke else 500,
        update_model_interval=50,
        update_buffer_interval=50,
        agent_scheduler=lambda agent, epoch: print(f"epoch {epoch}"),
        on_update=report,
    )

    # Runs the epochs; closes the source, which closes the worker and its environment.
    with Trainer(training_cls, source=source) as trainer:
        trainer.run()
        worker.run_episodes(nb_episodes=1 if is_smoke else 10)
        returns = [record.episode_return for record in worker.buffer.episodes if record.is_test]
    print(f"mean return of {len(returns)} test episodes: {sum(returns) / len(returns):.0f}")


def report(training: TorchTrainingOffline, metrics: dict[str, float]) -> None:
    """Called after each update."""
    if training.total_updates % 50 == 0:
        sampling = metrics["sampling_duration"] / metrics["training_step_duration"]
        print(
            f"  update {training.total_updates}: {len(training.memory)} transitions, "
            f"return {metrics['return_train']:.0f}, sampling takes {sampling:.1%} of the training step"
        )


if __name__ == "__main__":
    main()
