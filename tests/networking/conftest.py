"""Both ends of a line within this process."""

import pytest

from tmrl.networking.server import Server
from tmrl.networking.trainer_line import TrainerLine


@pytest.fixture
def server():
    with Server(port=None) as server:
        yield server


@pytest.fixture
def trainer(server):
    with TrainerLine(server.loopback) as trainer:
        yield trainer
