"""Who has the line: of two programs under one name the one that was begun last, and no fight without end."""

import asyncio

import pytest

from dummies import Policy
from networking.ends import worker_line
from networking.numbered import numbered, steps_of, until
from networking.scene import answers, hello, in_loop
from tmrl.errors import LineLostError, RefusedError
from tmrl.networking.listening import LIVES_KEPT
from tmrl.networking.messages import Refuse, Subscribe, Welcome, from_frame, to_frame
from tmrl.networking.policy_store import policy_message
from tmrl.networking.trainer_line import TrainerLine

OLD, NEW = 1, 2
DRIVEN = "another worker named 'a' has taken over from .*; give each worker a name of its own"


async def opened(server, life, name="a"):
    """A connection of a program, and what it is answered first; None if it is ended without a word."""
    connection = await server.loopback.dial("samples", life)
    await connection.send(hello(name))
    try:
        return connection, from_frame(await connection.receive())
    except LineLostError:
        return connection, None


async def last_words(connection):
    """What a peer that is hung up on is told; the end is awaited."""
    return [message for message in await answers(connection, 5.0) if isinstance(message, Refuse)]


def test_of_two_workers_of_one_name_the_older_is_told_so_for_good_and_the_newer_goes_on(server):
    with TrainerLine(server.loopback) as trainer, worker_line(server) as older:
        trainer.start()
        older.send(numbered("a", 0, 10))
        until(lambda: len(trainer.retrieve_buffer()) > 0)
        with worker_line(server) as newer:
            newer.send(numbered("a", 100, 10, epoch=2))
            with pytest.raises(RefusedError, match=DRIVEN):
                until(lambda: older.send(numbered("a", 10, 1)))
            until(lambda: all(task.done() for task in older._tasks))  # it dials no more
            for first in range(110, 150, 10):
                newer.send(numbered("a", first, 10, epoch=2))
            arrived = []
            until(lambda: len(arrived.extend(_steps(trainer)) or arrived) >= 50)
            assert arrived == list(range(100, 150))


def _steps(trainer):
    return steps_of(trainer.retrieve_buffer()).get("a", [])


def test_a_driven_worker_that_waits_for_a_policy_is_told_too(server):
    with worker_line(server) as older:
        until(lambda: server.report()["workers"])
        with worker_line(server), pytest.raises(RefusedError, match=DRIVEN):
            older.receive(20.0, None)


def test_of_two_trainers_the_older_is_told_so_for_good(server):
    driven = "another trainer has taken over from .*; end one of them, or give each a server of its own"
    with TrainerLine(server.loopback) as older:
        older.start()
        until(lambda: server.report()["trainer"]["is_connected"])
        with TrainerLine(server.loopback) as newer, worker_line(server) as worker:
            newer.start()
            with pytest.raises(RefusedError, match=driven):
                until(lambda: len(older.retrieve_buffer()))
            with pytest.raises(RefusedError, match=driven):
                older.broadcast_model(Policy())
            worker.send(numbered("a", 0, 10))
            until(lambda: len(newer.retrieve_buffer()) > 0)


def test_the_policies_of_a_driven_trainer_reach_nobody(server):
    """Even if all that the newer one has done is to ask for samples."""

    async def publish():
        older = await server.loopback.dial("publish", OLD)
        await older.send(to_frame(policy_message(1, b"first")))
        await older.receive()
        newer = await server.loopback.dial("feed", NEW)
        await newer.receive()
        (refusal,) = await last_words(older)
        assert "another trainer has taken over" in refusal.reason
        again = await server.loopback.dial("publish", OLD)
        await again.send(to_frame(policy_message(1, b"second")))
        (refusal,) = await last_words(again)
        assert refusal.is_final
        await newer.close()

    in_loop(publish())
    assert server.report()["policy_version"] == 1


def test_a_worker_whose_samples_are_driven_gets_no_policies_either(server):
    async def subscribe():
        older = await server.loopback.dial("policies", OLD)
        await older.send(to_frame(Subscribe("a", 0)))
        while server._hub._workers.get("a") is None:
            await asyncio.sleep(0.001)
        newer, _ = await opened(server, NEW)
        (refusal,) = await last_words(older)
        assert refusal.is_final
        await newer.close()

    in_loop(subscribe())


def test_a_line_that_is_cut_comes_back_without_a_word(server, caplog):
    with TrainerLine(server.loopback) as trainer, worker_line(server) as worker:
        trainer.start()
        for first in range(0, 50, 10):
            worker.send(numbered("a", first, 10))
            arrived = []
            until(lambda got=arrived: len(got.extend(_steps(trainer)) or got) >= 10)
            in_loop(server.loopback.cut())
    assert "taken over" not in caplog.text


def test_what_is_left_of_a_lost_connection_makes_way_without_a_word(server, caplog):
    async def roam():
        half_open, _ = await opened(server, OLD)
        again, answer = await opened(server, OLD)
        assert isinstance(answer, Welcome)
        assert await last_words(half_open) == []
        await again.close()

    in_loop(roam())
    assert "taken over" not in caplog.text


def test_a_worker_that_was_killed_and_begun_again_is_let_in_at_once(server):
    async def begin_again():
        half_open, _ = await opened(server, OLD)
        await server._hub._workers["a"].connection._connection.wire.changed.acquire()  # it hears nothing more
        _, answer = await asyncio.wait_for(opened(server, NEW), 0.5)
        half_open.wire.changed.release()
        return answer

    assert isinstance(in_loop(begin_again()), Welcome)


def test_an_older_program_that_comes_back_is_refused_while_the_newer_is_here_and_let_in_once_it_is_gone(
    server,
):
    async def come_and_go():
        older, _ = await opened(server, OLD)
        newer, _ = await opened(server, NEW)
        assert len(await last_words(older)) == 1
        _, refusal = await opened(server, OLD)
        assert isinstance(refusal, Refuse)
        assert refusal.is_final
        await newer.close()
        while server._hub._workers["a"].connection is not None:
            await asyncio.sleep(0.001)
        older, answer = await opened(server, OLD)
        assert isinstance(answer, Welcome)
        _, answer = await opened(server, NEW)  # which has precedence whenever it comes
        assert isinstance(answer, Welcome)
        assert len(await last_words(older)) == 1

    in_loop(come_and_go())


def test_others_are_not_concerned(server):
    async def meet():
        a, _ = await opened(server, OLD, "a")
        _, answer = await opened(server, NEW, "b")
        assert isinstance(answer, Welcome)
        assert not any(isinstance(message, Refuse) for message in await answers(a, 0.2))

    in_loop(meet())
    assert [worker["is_connected"] for worker in server.report()["workers"]] == [True, True]


def test_a_place_remembers_few_programs_and_one_that_is_forgotten_counts_as_new(server):
    async def crowd():
        for life in range(1, 2 * LIVES_KEPT):
            last, answer = await opened(server, life)
            assert isinstance(answer, Welcome)
        _, answer = await opened(server, 1)
        assert isinstance(answer, Welcome)
        assert "taken over" in (await last_words(last))[0].reason

    in_loop(crowd())
    assert len(server._hub._workers["a"].seat._lives) == LIVES_KEPT


def test_the_oldest_program_that_is_remembered_can_be_driven_as_any_other(server):
    async def drive():
        for life in range(1, LIVES_KEPT + 1):
            await opened(server, life)
        await server.loopback.cut()
        while server._hub._workers["a"].connection is not None:
            await asyncio.sleep(0.001)
        await opened(server, 1)
        _, answer = await opened(server, LIVES_KEPT + 1)
        assert isinstance(answer, Welcome)

    in_loop(drive())


def test_a_clock_that_is_set_back_makes_nobody_seen_in_the_future(server, monkeypatch):
    with worker_line(server), TrainerLine(server.loopback) as trainer:
        trainer.start()
        until(lambda: server.report()["workers"] and server.report()["trainer"]["seen_s"] is not None)
        monkeypatch.setattr("time.time", lambda: 0.0)
        report = server.report()
        assert 0 <= report["workers"][0]["seen_s"] < 60
        assert 0 <= report["trainer"]["seen_s"] < 60
