"""Two workers, a server and a trainer, over a real line on this machine.

    python examples/12_workers_and_server.py

In earnest each of the three runs where it belongs: workers on robots or in processes of their own, the server
where all can reach it, the trainer beside the GPU. Then each is a program, with an address and a credential
more, and the calls are these. `tmrl server`, `tmrl worker` and `tmrl trainer` are three such programs.
"""

import argparse
from functools import partial
from tempfile import TemporaryDirectory
from threading import Event, Thread

import torch

from tmrl.agents import SACAgent, SquashedGaussianActor
from tmrl.envs import GenericGymEnv
from tmrl.memory import ReplayMemory
from tmrl.networking import RolloutWorker, Server, Trainer
from tmrl.training import TorchTrainingOffline

ENV = partial(GenericGymEnv, "Pendulum-v1", to_float32=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a short run, too short to learn anything")
    is_smoke = parser.parse_args().smoke
    torch.manual_seed(0)
    torch.set_num_threads(1)

    # Keeps samples in a folder until the trainer has them, even if it is killed; in earnest a lasting one.
    with TemporaryDirectory() as spool, Server(port=0, spool=spool) as server:
        is_over = Event()
        workers = [Thread(target=work, args=(f"worker-{i}", server.port, is_over)) for i in range(2)]
        for worker in workers:
            worker.start()
        try:
            train(server.port, is_smoke)
            for about in server.report()["workers"]:
                print(
                    f"{about['name']}: {about['samples']} samples came, {about['lost']} parcels were lost, "
                    f"{'a' if about['policy_version'] else 'no'} policy went back"
                )
        finally:
            is_over.set()
            for worker in workers:
                worker.join()


def work(name: str, port: int, is_over: Event) -> None:
    """What runs on a robot: collects episodes, sends them, and takes the newest policy after each."""
    with RolloutWorker(
        ENV,
        SquashedGaussianActor,
        server_ip="127.0.0.1",
        server_port=port,
        worker_id=name,
        outbox="ram",  # a worker that has a name keeps them in a folder, unless told otherwise
    ) as worker:
        while not is_over.is_set():
            worker.collect_train_episode(max_samples=50)
            worker.send_and_clear_buffer()
            worker.update_actor_weights(verbose=False)


def train(port: int, is_smoke: bool) -> None:
    """What runs beside the GPU: the training of one process, but for where its samples come from."""
    training_cls = partial(
        TorchTrainingOffline,
        ENV,
        partial(ReplayMemory, memory_size=100_000, batch_size=64, seed=0),
        partial(SACAgent, lr=1e-3),
        epochs=1 if is_smoke else 10,
        rounds=1,
        steps=50 if is_smoke else 500,
        start_training=200,
        update_model_interval=10,
        update_buffer_interval=10,
        sleep_between_buffer_retrieval_attempts=0.05,
    )
    with Trainer(training_cls, server_ip="127.0.0.1", server_port=port) as trainer:
        trainer.run()
    print("the training is done")


if __name__ == "__main__":
    main()
