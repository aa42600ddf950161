"""TLS between a gRPC server and its clients on loopback, with the files that `tmrl credentials` makes."""

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from tmrl.networking import revocations
from tmrl.networking.authority import Authority
from tmrl.networking.credentials import ClientCredential, ServerCredentials, identity_of

TIMEOUT_S = 20.0
METHOD = "/line/who"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "line", ["127.0.0.1"])


@contextmanager
def serving(credentials: ServerCredentials) -> Generator[int]:
    """A server that tells a client who it is, and refuses one that is revoked; gives the port."""

    def who(_: bytes, context: grpc.ServicerContext) -> bytes:
        (pem,) = context.auth_context()["x509_pem_cert"]
        if credentials.is_revoked(pem):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "revoked")
        identity = identity_of(pem)
        names = context.auth_context()["x509_subject_alternative_name"]
        assert names == [f"tmrl://{identity.role}/{identity.name}".encode()]
        assert context.auth_context()["x509_common_name"] == [identity.name.encode()]
        return f"{identity.role} {identity.name} {identity.fingerprint}".encode()

    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("line", {"who": grpc.unary_unary_rpc_method_handler(who)})]
    )
    port = server.add_secure_port(
        "127.0.0.1:0",
        grpc.ssl_server_credentials(
            [(credentials.key_pem, credentials.cert_pem)], credentials.ca_pem, require_client_auth=True
        ),
    )
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait(TIMEOUT_S)


def ask(
    port: int,
    key: bytes | None,
    cert: bytes | None,
    ca: bytes,
    host: str = "127.0.0.1",
    name: str | None = None,
) -> str:
    """Asks a server who we are; `name` is the name that its certificate must have, if not `host`."""
    options = [("grpc.ssl_target_name_override", name)] if name else []
    credentials = grpc.ssl_channel_credentials(ca, key, cert)
    with grpc.secure_channel(f"{host}:{port}", credentials, options) as channel:
        return channel.unary_unary(METHOD)(b"", timeout=TIMEOUT_S).decode()


def ask_as(port: int, client: ClientCredential, **options: str) -> str:
    return ask(port, client.key_pem, client.cert_pem, client.ca_pem, **options)


def assert_refused(question: Callable[[], str]) -> None:
    """The connection itself fails: no call reaches the server."""
    with pytest.raises(grpc.RpcError) as caught:
        question()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_worker_and_the_trainer_reach_the_server_which_knows_who_they_are(authority):
    worker = ClientCredential.read(authority.add_worker("robot-1"))
    trainer = ClientCredential.read(authority.folder / "trainer.json")
    with serving(ServerCredentials.read(authority.folder)) as port:
        fingerprint = identity_of(worker.cert_pem).fingerprint
        assert ask_as(port, worker) == f"worker robot-1 {fingerprint}"
        assert ask_as(port, trainer).startswith("trainer trainer ")


@pytest.mark.parametrize("host", ["trainer.example.org", "my_trainer", "10.0.0.5", "localhost", "127.0.0.1"])
def test_the_server_is_known_by_each_of_its_hosts_and_by_no_other(tmp_path, host):
    authority = Authority.create(tmp_path / "hosts", ["trainer.example.org", "my_trainer", "10.0.0.5"])
    trainer = ClientCredential.read(authority.folder / "trainer.json")
    with serving(ServerCredentials.read(authority.folder)) as port:
        assert ask_as(port, trainer, name=host).startswith("trainer ")
        assert_refused(lambda: ask_as(port, trainer, name="other.example.org"))


def test_both_sides_refuse_a_certificate_of_another_authority(authority, tmp_path):
    other = Authority.create(tmp_path / "other", ["127.0.0.1"])
    ours, theirs = (ClientCredential.read(folder.add_worker("robot-1")) for folder in (authority, other))
    with serving(ServerCredentials.read(authority.folder)) as port:
        # The client would trust this server, and is refused by it ...
        assert_refused(lambda: ask(port, theirs.key_pem, theirs.cert_pem, ours.ca_pem))
        # ... and the server would trust this client, and is refused by it.
        assert_refused(lambda: ask(port, ours.key_pem, ours.cert_pem, theirs.ca_pem))
        assert ask_as(port, ours).startswith("worker robot-1 ")


def test_a_client_without_a_certificate_or_with_the_servers_is_refused(authority):
    credentials = ServerCredentials.read(authority.folder)
    with serving(credentials) as port:
        assert_refused(lambda: ask(port, None, None, credentials.ca_pem))
        assert_refused(lambda: ask(port, credentials.key_pem, credentials.cert_pem, credentials.ca_pem))


def test_a_worker_cannot_pose_as_the_server(authority):
    worker = ClientCredential.read(authority.add_worker("robot-1"))
    server = ServerCredentials.read(authority.folder)
    posing = ServerCredentials(
        server.folder, worker.key_pem, worker.cert_pem, server.ca_pem, server._revocations
    )
    with serving(posing) as port:
        assert_refused(lambda: ask_as(port, worker, name="robot-1"))


def test_a_revoked_worker_is_refused_by_a_server_that_runs(authority, monkeypatch):
    monkeypatch.setattr(revocations, "LOOK_EVERY_S", 0.0)
    robots = [ClientCredential.read(authority.add_worker(f"robot-{i}")) for i in range(2)]
    with serving(ServerCredentials.read(authority.folder)) as port:
        assert [ask_as(port, robot).split()[1] for robot in robots] == ["robot-0", "robot-1"]
        authority.revoke("robot-0")
        with pytest.raises(grpc.RpcError, match="revoked"):
            ask_as(port, robots[0])
        assert ask_as(port, robots[1]).startswith("worker robot-1 ")


def test_a_server_that_was_renewed_is_reached_with_the_files_of_before(authority):
    worker = ClientCredential.read(authority.add_worker("robot-1"))
    authority.renew(["renewed.example.org"])
    with serving(ServerCredentials.read(authority.folder)) as port:
        assert ask_as(port, worker).startswith("worker robot-1 ")
