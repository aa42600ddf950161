"""Private keys are in no log, no message and no repr, whatever happens on the line."""

import logging

import pytest

from networking.numbered import numbered, until
from networking.scene import Scene, hello, talk_as
from tmrl.errors import RefusedError


def key_lines(*pems: bytes) -> set[str]:
    """Lines of base64 of private keys, each of which would give one away."""
    lines = {line for pem in pems for line in pem.decode().splitlines() if not line.startswith("-----")}
    assert len(lines) >= 2 * len(pems)
    return {line for line in lines if len(line) > 20}


def reprs_of(value: object, depth: int = 3) -> list[str]:
    """The reprs of an object, and of what hangs on it."""
    found = [repr(value), str(value)]
    if depth and hasattr(value, "__dict__"):
        found += [text for part in vars(value).values() for text in reprs_of(part, depth - 1)]
    return found


def test_no_log_no_message_and_no_repr_has_a_private_key(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    scene = Scene(tmp_path / "line")
    said: list[str] = []
    try:
        scene.goes_on()
        robot = scene.line("robot")
        robot.send(numbered("robot", 0, 1))
        until(lambda: robot.flush(0.1) or scene.worker("robot")["samples"])
        talk_as(scene, "mallory", "samples", hello("robot"), b"nonsense")
        scene.authority.revoke("robot")
        with pytest.raises(RefusedError) as caught:
            until(lambda: robot.receive(0.05, None).n_policies)
        error: BaseException | None = caught.value
        while error is not None:
            said += [repr(error), str(error)]
            error = error.__cause__ or error.__context__
        credentials = scene.server._listeners[1]._credentials
        clients = [scene.credential(name) for name in ("honest", "robot", "mallory")]
        for end in (scene.server, scene.server._listeners[1], scene.trainer, scene.honest, robot):
            said += reprs_of(end)
        said += [repr(credentials), *map(repr, clients), repr(scene.server.report())]
        robot.close()
    finally:
        scene.close()
    said += [caplog.text, *(repr(vars(record)) for record in caplog.records)]
    secrets = key_lines(credentials.key_pem, *(client.key_pem for client in clients))
    everything = "\n".join(said)
    assert "robot" in everything
    assert not [line for line in secrets if line in everything]
    assert "PRIVATE KEY" not in everything
