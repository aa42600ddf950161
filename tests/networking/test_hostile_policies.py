"""Policies that are none: nothing of them is run, the worker says so and keeps the one it has."""

import io
import json
import logging
import os
import pickle
import struct
import zipfile

import pytest
import safetensors.torch
import torch

from networking.numbered import ram_outbox, until
from tmrl.actor import TorchActorModule
from tmrl.errors import PolicyError
from tmrl.networking import background
from tmrl.networking.messages import Wish, to_frame
from tmrl.networking.policy_bytes import load_policy
from tmrl.networking.policy_store import policy_message
from tmrl.networking.server import Server
from tmrl.networking.worker_line import WorkerLine
from tmrl.runs.serving import KeepsPolicy


class Policy(TorchActorModule):
    def __init__(self, observation_space=None, action_space=None, device="cpu"):
        super().__init__(observation_space, action_space, device)
        self.first = torch.nn.Linear(2, 2)
        self.second = torch.nn.Linear(2, 2)

    def act(self, obs, test=False):
        return self.second(self.first(obs)).numpy()


class Evil:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def safetensors_header(**tensors) -> bytes:
    header = json.dumps(tensors).encode()
    return struct.pack("<Q", len(header)) + header


def zip_bomb() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(200_000_000))
    return stream.getvalue()


def fits_in_part() -> bytes:
    state = {name: torch.full_like(tensor, 7.0) for name, tensor in Policy().state_dict().items()}
    state["second.bias"] = torch.full((3,), 7.0)
    return safetensors.torch.save(state)


ABSURD = [
    safetensors_header(x={"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 8]}) + bytes(8),
    safetensors_header(x={"dtype": "F32", "shape": [1 << 60], "data_offsets": [0, 1 << 62]}),
    struct.pack("<Q", 1 << 63) + b"{}",
    safetensors_header(**{"first.weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [16, 0]}}),
]


def hostile(kind: str, mark) -> list[bytes]:
    return {
        "pickle": [pickle.dumps(Evil(mark)), pickle.dumps({"first.weight": Evil(mark)}, protocol=0)],
        "absurd shapes": ABSURD,
        "zip bomb": [zip_bomb()],
        "another network's": [fits_in_part()],
        "nothing": [b"", b"\0" * 100],
    }[kind]


KINDS = ["pickle", "absurd shapes", "zip bomb", "another network's", "nothing"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_policy_is_refused_and_the_one_before_is_whole(kind, tmp_path):
    for body in hostile(kind, tmp_path / "mark"):
        mine = Policy()
        before = {name: tensor.clone() for name, tensor in mine.state_dict().items()}
        with pytest.raises(PolicyError, match="is none of this worker's Policy"):
            load_policy(mine, body)
        assert all(torch.equal(tensor, before[name]) for name, tensor in mine.state_dict().items())
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_file_of_torch_is_refused_too(kind, tmp_path):
    for body in hostile(kind, tmp_path / "mark"):
        file = tmp_path / "policy.pt"
        file.write_bytes(body)
        with pytest.raises(PolicyError, match="must hold the weights of a Policy"):
            Policy().load(file, "cpu")
    assert not (tmp_path / "mark").exists()


def test_whatever_a_users_own_load_raises_is_a_policy_error():
    class Fragile(Policy):
        def load(self, path, device, *, allow_pickle=False):
            raise KeyError("weights")

    with pytest.raises(PolicyError, match="is none of this worker's Fragile: 'weights'"):
        load_policy(Fragile(), b"")


def publish(server, body: bytes) -> None:
    """What a trainer sends that was taken over."""
    version = server.report()["policy_version"]

    async def send():
        connection = await server.loopback.dial("publish")
        await connection.send(to_frame(policy_message(1, body)))
        await connection.receive()
        await connection.close()

    background.run(send(), 10)
    assert server.report()["policy_version"] == version + 1


def good() -> bytes:
    return safetensors.torch.save(Policy().state_dict())


def test_a_users_own_loop_is_told_of_a_hostile_policy_and_gets_the_next(tmp_path):
    with Server(port=None) as server, WorkerLine(server.loopback, ram_outbox("a"), close_s=0.1) as line:
        for body in hostile("pickle", tmp_path / "mark"):
            publish(server, body)
            with pytest.raises(PolicyError, match="is none of this worker's Policy"):
                line.receive(5.0, Policy())
        publish(server, good())
        assert line.receive(5.0, Policy()).n_policies == 1


def test_the_worker_of_the_command_line_says_it_once_and_goes_on(tmp_path, caplog):
    caplog.set_level(logging.ERROR)
    with Server(port=None) as server, WorkerLine(server.loopback, ram_outbox("a"), close_s=0.1) as line:
        sink, mine = KeepsPolicy(line), Policy()
        assert sink.peer.startswith("the trainer through")
        for body in hostile("pickle", tmp_path / "mark") + ABSURD:
            publish(server, body)
            assert sink.receive(0.1, mine).n_policies == 0
        assert caplog.text.count("the worker goes on with the policy it has") == 1
        publish(server, good())
        received = sink.receive(5.0, mine)
        assert (received.n_policies, received.actor) == (1, mine)
        publish(server, b"")
        sink.receive(0.1, mine)
        assert caplog.text.count("the worker goes on with the policy it has") == 2  # it was well in between


@pytest.mark.parametrize(
    "wishes",
    [
        [1, 2],
        {"info_keys": "all", "with_crc": False},
        {"info_keys": [], "with_crc": 1},
        {"info_keys": ["x"] * 5000, "with_crc": False},
        {"__class__": "os.system"},
    ],
    ids=["list", "text", "number", "many", "foreign"],
)
def test_hostile_wishes_are_refused_or_harmless_and_the_worker_goes_on(wishes):
    from networking.numbered import numbered
    from tmrl.networking.trainer_line import TrainerLine

    async def wish():
        connection = await server.loopback.dial("feed")
        await connection.receive()
        await connection.send(to_frame(Wish(wishes)))
        await connection.close()

    with Server(port=None) as server, WorkerLine(server.loopback, ram_outbox("a"), close_s=0.1) as line:
        background.run(wish(), 5)
        with TrainerLine(server.loopback) as trainer:
            line.send(numbered("a", 0, 5))
            until(lambda: trainer.retrieve_buffer() is not None and trainer.received_samples >= 5)


def test_wishes_that_are_too_many_are_refused():
    from tmrl.errors import ProtocolError
    from tmrl.networking.policy_store import PolicyStore

    store = PolicyStore()
    with pytest.raises(ProtocolError, match="wishes must be at most 65,536 bytes, got"):
        background.run(store.keep_wishes(["x" * 70_000]), 10)
    assert store.wishes is None
    with pytest.raises(ProtocolError, match=r"a policy must be at most .* and number 9,007,199,25"):
        background.run(store.keep(policy_message(1 << 60, b"weights")), 10)
