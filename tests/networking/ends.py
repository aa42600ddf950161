"""What a test does at either end of a line within this process."""

import time

from networking.numbered import ram_outbox
from tmrl.buffer import Buffer
from tmrl.networking.worker_line import WorkerLine


def worker_line(server, name="a", **options):
    return WorkerLine(server.loopback, ram_outbox(name), **{"batch_s": 0.01, "close_s": 0.1, **options})


def retrieve(trainer, n_samples, timeout_s=20.0):
    """What comes until there are so many samples."""
    buffer = Buffer()
    deadline = time.monotonic() + timeout_s
    while len(buffer) < n_samples:
        assert time.monotonic() < deadline, f"{len(buffer)} of {n_samples} samples came in time"
        buffer += trainer.retrieve_buffer()
        time.sleep(0.002)
    return buffer
