"""Attacks on a server with TLS, by strangers and by workers that have a certificate: nobody else notices."""

import asyncio
import logging
import socket
import struct
import time
from datetime import UTC, datetime, timedelta

import grpc
import grpc.aio
import pytest

from makers import parcel_of
from networking.numbered import numbered, until
from networking.scene import Scene, answers, hello, in_loop, parcel, talk_as
from tmrl.errors import LineLostError, RefusedError
from tmrl.networking import grpc_transport, guard, hub
from tmrl.networking.authority import Authority
from tmrl.networking.credentials import ClientCredential
from tmrl.networking.messages import (
    MAX_FRAME_BYTES,
    Ack,
    Hello,
    Put,
    Refuse,
    Skip,
    Subscribe,
    Welcome,
    to_frame,
)


@pytest.fixture
def scene(tmp_path):
    scene = Scene(tmp_path / "line")
    try:
        scene.goes_on()
        yield scene
    finally:
        scene.close()


def refusal(messages) -> str:
    (reason,) = [message.reason for message in messages if isinstance(message, Refuse)]
    return reason


# Certificates.


def certificate_of(authority: Authority, name: str, now: datetime, days: int) -> ClientCredential:
    """A worker's credential, read as if its certificate were valid."""
    file = authority.add_worker(name, days=days, now=now)
    return ClientCredential.read(file, now=now + timedelta(hours=1))


@pytest.mark.parametrize(
    ("begins_in_days", "why"),
    [(-3, "expired yesterday"), (3, "begins in three days")],
    ids=lambda value: value,
)
def test_a_certificate_out_of_its_time_does_not_get_in(scene, begins_in_days, why):
    now = datetime.now(UTC) + timedelta(days=begins_in_days)
    credential = certificate_of(scene.authority, "robot", now, days=2)
    dialer = scene.dialer(credential)
    with pytest.raises(LineLostError, match="cannot be reached"):
        in_loop(dialer.dial("samples"))
    scene.goes_on()


def test_a_certificate_of_another_authority_does_not_get_in(scene, tmp_path):
    other = Authority.create(tmp_path / "other", ["127.0.0.1"])
    with pytest.raises(LineLostError, match="cannot be reached"):
        in_loop(scene.dialer(ClientCredential.read(other.add_worker("honest"))).dial("samples"))
    scene.goes_on()


def test_who_is_revoked_while_connected_is_out_within_seconds_and_told_why(scene):
    line = scene.line("robot")
    line.send(numbered("robot", 0, 1))
    until(lambda: line.flush(0.1) or scene.worker("robot")["samples"])
    scene.authority.revoke("robot")
    revoked_at = time.monotonic()
    with pytest.raises(RefusedError, match="the certificate of worker 'robot' was revoked"):
        until(lambda: line.receive(0.05, None).n_policies)
    assert time.monotonic() - revoked_at < 5
    assert not scene.worker("robot")["is_connected"]
    line.close()
    scene.goes_on()


def test_who_expires_while_connected_is_out(scene, monkeypatch):
    """TLS looks at a certificate at the beginning only."""
    line = scene.line("robot")
    line.send(numbered("robot", 0, 1))
    until(lambda: any(worker["name"] == "robot" for worker in scene.server.report()["workers"]))
    monkeypatch.setattr(
        grpc_transport.ServerCredentials, "is_over", lambda _, identity: identity.name == "robot"
    )
    until(lambda: not scene.worker("robot")["is_connected"], 5)
    monkeypatch.undo()
    line.close()
    scene.goes_on()


# Names.


def test_nobody_is_greeted_by_another_name(scene):
    assert "the certificate is that of 'mallory', and not of 'honest'" in refusal(
        talk_as(scene, "mallory", "samples", hello("honest"))
    )
    assert "is that of 'mallory'" in refusal(
        talk_as(scene, "mallory", "policies", to_frame(Subscribe("honest", 0)))
    )
    scene.goes_on()


def test_samples_of_another_worker_are_refused_by_the_server(scene):
    body = parcel("honest", 10)
    said = talk_as(scene, "mallory", "samples", hello("mallory"), to_frame(Put(0, (len(body),)), [body]))
    assert "'mallory' may send its own samples only, got those of 'honest'" in refusal(said)
    assert scene.worker("mallory")["parcels"] == 0
    scene.goes_on()


def test_samples_of_another_worker_under_a_header_of_ones_own_are_refused_by_the_trainer(scene, caplog):
    """The server reads headers only; who reads the samples compares them with the header."""
    body = parcel("honest0", 10).replace(b"honest0", b"mallory", 1)  # the header comes first
    assert b"honest0" in body
    talk_as(scene, "mallory", "samples", hello("mallory"), to_frame(Put(0, (len(body),)), [body]), wait_s=0.3)
    scene.goes_on()
    until(lambda: scene.trainer.retrieve_buffer() is not None and scene.trainer.refused == 1)
    assert "must name whom its samples are of, but not 'honest0'" in caplog.text


def test_lanes_of_a_worker_and_plain_samples_are_its_own(scene):
    from tmrl.buffer import Buffer

    plain = Buffer()
    plain.memory += [tuple(sample) for sample in numbered("x", 0, 2).memory]
    bodies = [parcel("robot/3"), parcel_of(plain)]
    said = talk_as(
        scene,
        "robot",
        "samples",
        hello("robot"),
        to_frame(Put(0, tuple(map(len, bodies))), bodies),
        wait_s=0.5,
    )
    assert not [message for message in said if isinstance(message, Refuse)]
    assert scene.worker("robot")["samples"] == 3


def test_a_worker_gets_nothing_of_what_is_the_trainers_and_the_reverse(scene):
    for service in ("feed", "publish"):
        assert "needs the certificate of a trainer, got that of the worker 'mallory'" in refusal(
            talk_as(scene, "mallory", service)
        )
    trainer = ClientCredential.read(scene.authority.folder / "trainer.json")

    async def as_trainer():
        dialer = scene.dialer(trainer)
        try:
            connection = await dialer.dial("samples")
            await connection.send(hello("honest"))
            return await answers(connection)
        finally:
            await dialer.close()

    assert "needs the certificate of a worker, got that of the trainer" in refusal(in_loop(as_trainer()))
    scene.goes_on()


# Replays.


def test_frames_that_are_sent_again_are_counted_and_stored_once(scene):
    body = parcel("robot", 0, 5)
    frames = hello("robot", epoch=7), to_frame(Put(0, (len(body),)), [body])
    for _ in range(3):
        said = talk_as(scene, "robot", "samples", *frames, wait_s=0.3)
        assert isinstance(said[0], Welcome)
    worker = scene.worker("robot")
    assert (worker["parcels"], worker["samples"], worker["duplicates"]) == (1, 5, 2)
    scene.goes_on()


# Too little, too much.


def test_who_says_nothing_or_half_of_a_hello_is_hung_up_on(scene, monkeypatch):
    monkeypatch.setattr(hub, "HELLO_TIMEOUT_S", 0.3)
    assert refusal(talk_as(scene, "mallory", "samples")) == "nothing was said for 0.3 s"
    assert "and in its frame of" in refusal(talk_as(scene, "mallory", "samples", hello("mallory")[:9]))
    for service in ("policies", "status"):
        assert refusal(talk_as(scene, "mallory", service)) == "nothing was said for 0.3 s"
    scene.goes_on()


def test_a_stranger_that_opens_sockets_and_says_nothing_disturbs_nobody(scene):
    sockets = [socket.create_connection(("127.0.0.1", scene.server.port)) for _ in range(100)]
    try:
        sockets[0].sendall(b"\x16\x03\x01")  # the beginning of TLS
        sockets[1].sendall(b"GET / HTTP/1.1\r\n\r\n")
        scene.goes_on()
        late = scene.line("late")
        late.send(numbered("late", 0, 1))
        until(
            lambda: (
                scene.worker("honest") and any(w["name"] == "late" for w in scene.server.report()["workers"])
            )
        )
        late.close()
    finally:
        for each in sockets:
            each.close()


def test_hundreds_of_connections_of_one_worker_are_refused_and_said_once(scene, caplog):
    async def open_many():
        dialers = [scene.dialer(credential) for _ in range(4)]
        connections = []
        try:
            for dialer in dialers:
                for _ in range(12):
                    connection = await dialer.dial("samples")
                    connections.append(connection)
            await asyncio.sleep(0.3)
            return [await answers(connection, 0.05) for connection in connections]
        finally:
            for dialer in dialers:
                await dialer.close()

    credential = scene.credential("mallory")
    said = in_loop(open_many())
    n_refused = sum(any(isinstance(message, Refuse) for message in each) for each in said)
    assert n_refused == 48 - guard.MAX_CONNECTIONS
    assert caplog.text.count("a peer may have 16 connections open, and 'mallory' has them") == 1
    scene.goes_on()


def test_more_streams_of_one_connection_than_the_limit_wait_and_disturb_nobody(scene):
    async def open_many():
        dialer = scene.dialer(credential)
        opening = [asyncio.ensure_future(dialer.dial("samples")) for _ in range(300)]
        try:
            await asyncio.sleep(0.5)
            return sum(future.done() for future in opening)
        finally:
            for future in opening:
                future.cancel()
            await asyncio.gather(*opening, return_exceptions=True)
            await dialer.close()

    credential = scene.credential("mallory")
    assert in_loop(open_many()) <= 16
    scene.goes_on()


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (
            struct.pack("<I", 0xFFFFFFFF) + b"x" * 10,
            "a frame must be at most 268,435,456 bytes here, got one of 2,1",
        ),
        (struct.pack("<I", 0x7FFFFFFF) + b"x" * 10, "a header must be at most 1,048,576 bytes"),
        (to_frame(Put(0, (10**10,))), "a Put must have the 10,000,000,000 bytes that it says, got 0"),
        (to_frame(Put(0, (7,)), [b"garbage"]), "a parcel must be|must begin with"),
        (to_frame(Put(0, (0,) * (1 << 14))), "a parcel must be 12 bytes, but"),
        (to_frame(Ack(1, 1)), "a worker must send Put or Skip, got Ack"),
        (to_frame(Hello("mallory", 1, 0)), "a worker must send Put or Skip, got Hello"),
        (to_frame(Skip(0, (1 << 40,))), "samples of a Skip must be a sensible tuple"),
        (to_frame(Put((1 << 63), (1,)), [b"x"]), "first of a Put must be a sensible int"),
        (b"", "a frame must be 4 to"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_claims_that_cannot_be_are_refused(scene, frame, reason):
    said = refusal(talk_as(scene, "mallory", "samples", hello("mallory"), frame))
    assert any(part in said for part in reason.split("|"))
    scene.goes_on()


def test_numbers_at_the_end_of_their_range_break_nothing(scene):
    body, last = parcel("mallory"), (1 << 62) - 1
    for epoch in (1, last):
        put = to_frame(Put(last, (len(body),) * 3), [body] * 3)
        talk_as(scene, "mallory", "samples", hello("mallory", epoch, last), put, wait_s=0.3)
        talk_as(scene, "mallory", "samples", hello("mallory", epoch, last), wait_s=0.1)
    scene.goes_on()


def test_a_frame_above_the_limit_ends_the_connection(scene):
    credential = scene.credential("mallory")

    async def send_much():
        options = [("grpc.max_send_message_length", -1)]
        secrets = grpc.ssl_channel_credentials(credential.ca_pem, credential.key_pem, credential.cert_pem)
        async with grpc.aio.secure_channel(f"127.0.0.1:{scene.server.port}", secrets, options) as channel:
            call = channel.stream_stream("/tmrl.Line/samples")()
            await call.wait_for_connection()
            await call.write(bytes(MAX_FRAME_BYTES + 1))
            return await call.code()

    assert in_loop(send_much()) in {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.OK}
    scene.goes_on()


def test_a_parcel_that_could_not_go_on_to_the_trainer_is_refused(scene, monkeypatch):
    """Else it would block the trainer's line for ever, as the server adds a head to it."""
    monkeypatch.setattr("tmrl.networking.spool.MAX_PARCEL_BYTES", 100)
    body = parcel("mallory")
    said = talk_as(scene, "mallory", "samples", hello("mallory"), to_frame(Put(0, (len(body),)), [body]))
    assert "a parcel must be at most 100 bytes" in refusal(said)


def test_who_has_subscribed_to_policies_has_nothing_more_to_say(scene):
    subscribe = to_frame(Subscribe("mallory", 0))
    assert "there is nothing more to say here" in refusal(
        talk_as(scene, "mallory", "policies", subscribe, subscribe)
    )
    scene.goes_on()


def test_a_flood_of_frames_is_read_slowly_and_not_refused(scene, monkeypatch):
    monkeypatch.setattr(guard, "FRAMES_PER_S", 50.0)
    credential = scene.credential("mallory")

    async def flood():
        dialer = scene.dialer(credential)
        connection = await dialer.dial("samples")
        try:
            await connection.send(hello("mallory"))
            for number in range(100_000):
                await connection.send(to_frame(Skip(number, (1,))))
        finally:
            await dialer.close()

    with pytest.raises(TimeoutError):
        in_loop(flood(), 2.0)
    assert 50 <= scene.worker("mallory")["skipped"] <= 250
    monkeypatch.undo()
    scene.goes_on()


def test_many_parcels_in_a_frame_count_as_many_frames(scene, monkeypatch):
    monkeypatch.setattr(guard, "FRAMES_PER_S", 50.0)
    body = parcel("mallory")
    put = to_frame(Put(0, (len(body),) * 1600), [body] * 1600)
    talk_as(scene, "mallory", "samples", hello("mallory"), put, wait_s=0.5)
    assert scene.worker("mallory")["samples"] == 0  # it waits, and nobody is there any more
    talk_as(scene, "mallory", "samples", hello("mallory"), put, wait_s=3.0)
    assert scene.worker("mallory")["samples"] == 1600
    monkeypatch.undo()
    scene.goes_on()


def test_the_log_says_once_whom_it_refuses_and_a_peer_cannot_fill_it(scene, caplog):
    with caplog.at_level(logging.WARNING):
        for number in range(12):
            talk_as(scene, "mallory", "samples", to_frame(Skip(0, (number + 1,))))
            talk_as(scene, "mallory", "samples", hello("mallory"), struct.pack("<I", 5000 + number))
    assert sum("mallory" in record.getMessage() for record in caplog.records) == guard.REASONS_TOLD
    scene.goes_on()


def test_a_name_with_control_characters_never_gets_into_the_log(scene, caplog):
    talk_as(scene, "mallory", "samples", hello("a\n\x1b[31mERROR all is lost"))
    assert "\x1b" not in caplog.text
    assert "name of a Hello must be a sensible str" in caplog.text


def test_a_peer_that_reads_nothing_cannot_keep_its_successor_out(scene):
    """What it is told, that another took over, need not arrive."""

    async def succeed():
        dialers = [scene.dialer(credential) for _ in range(2)]
        try:
            first = await dialers[0].dial("samples")
            await first.send(hello("robot"))
            await first.receive()
            older = scene.server._hub._workers["robot"].connection._connection
            await older._lock.acquire()  # as a `send` does that waits for ever
            second = await dialers[1].dial("samples")
            await second.send(hello("robot"))
            return await answers(second, hub.HANG_UP_S + 0.5)
        finally:
            for dialer in dialers:
                await dialer.close()

    credential = scene.credential("robot")
    assert isinstance(in_loop(succeed())[0], Welcome)
    scene.goes_on()
