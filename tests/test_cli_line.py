"""The commands of the line, as a user calls them: real processes, real connections."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lanes import lanes_of
from networking.numbered import until
from tmrl.buffer import Buffer
from tmrl.memory import ReplayMemory
from tmrl.networking import Server, background
from tmrl.networking.grpc_transport import GrpcListener
from tmrl.networking.messages import Report, to_frame
from tmrl.networking.trainer_line import TrainerLine
from tmrl.runs import crew
from tmrl.runs.environments import make_env
from tmrl.runs.line_settings import Address
from tmrl.runs.recipe import make_actor
from tmrl.training import offline
from tmrl.vector_env import single_spaces

SHORT = ("--steps", "220", "--warm-up", "150", "--batch-size", "16", "--target-return", "-1e6")


pytestmark = pytest.mark.usefixtures("workplace")


@pytest.fixture
def spawn():
    """Starts `tmrl` commands as processes, which are killed at the end if they still run."""
    processes = []

    def start(*arguments):
        command = [sys.executable, "-m", "tmrl", *map(str, arguments)]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate(timeout=20)


@pytest.fixture
def server(workplace):
    with Server(port=0, spool="kept") as server:
        yield server


@pytest.fixture
def crews(monkeypatch):
    """The processes that a run starts itself."""
    processes = []
    popen = subprocess.Popen

    def recorded(*arguments, **options):
        process = popen(*arguments, **options)
        if "--until-stdin-closes" in process.args:
            processes.append(process)
        return process

    monkeypatch.setattr(crew.subprocess, "Popen", recorded)
    return processes


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def ended(process):
    """What a process says after Ctrl-C: exit code, standard output, standard error."""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def summary_of(name):
    return json.loads(Path("runs", name, "summary.json").read_text())


def refuses_connections(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) != 0


def test_a_run_starts_workers_of_its_own_and_leaves_none_behind(call, crews):
    """B10, B59: what two processes send is compared, transition by transition, with what they saw."""
    code, out, err = call("train", "--workers", "2", "--crc-debug", *SHORT, "--name", "one")
    assert code == 0, err
    assert "mean return of 10 test episodes" in out
    summary = summary_of("one")
    assert summary["updates"] == 70
    assert summary["env_steps"] >= 150
    assert summary["memory"]["crc_checked"] == summary["memory"]["draws"] == 70 * 16
    assert json.loads(Path("runs/one/config.json").read_text())["workers"] == 2
    assert [process.poll() is not None for process in crews] == [True, True]
    (address,) = {process.args[process.args.index("--server") + 1] for process in crews}
    assert refuses_connections(int(address.partition(":")[2]))
    assert sorted(path.name for path in Path().iterdir()) == ["runs"], "their outboxes are in memory"


def test_each_process_of_a_run_may_step_several_environments(call, crews):
    """B10, B59: and no two of them the same."""
    lanes = ("--workers", "2", "--num-envs", "3")
    code, _, err = call("train", *lanes, "--crc-debug", *SHORT, "--name", "one")
    assert code == 0, err
    summary = summary_of("one")
    assert summary["updates"] == 70
    assert summary["memory"]["crc_checked"] == summary["memory"]["draws"] == 70 * 16
    streams = ReplayMemory.load("runs/one/checkpoint").stats().workers
    assert set(streams) == {f"local-{i}/{lane}" for i in range(2) for lane in range(3)}
    assert [seed_of(process) for process in crews] == ["0", "4"]
    assert refuses_connections(int(crews[0].args[crews[0].args.index("--server") + 1].partition(":")[2]))


def seed_of(process):
    return process.args[process.args.index("--seed") + 1]


@pytest.mark.parametrize("is_secure", [False, True], ids=["loopback", "credentials"])
def test_server_worker_and_trainer_are_three_commands(call, spawn, is_secure):
    port, of_server, of_worker, of_trainer = free_port(), [], [], []
    if is_secure:
        assert call("credentials", "init", "line", "--host", "127.0.0.1", "--port", port)[0] == 0
        assert call("credentials", "worker", "line", "robot-1")[0] == 0
        of_server = ["--credentials", "line"]
        of_worker = ["--credential", "line/robot-1.json", "--num-envs", "2"]
        of_trainer = ["--credential", "line/trainer.json"]
    else:
        of_worker, of_trainer = (
            ["--server", f"127.0.0.1:{port}", "--name", "robot-1"],
            ["--server", f"127.0.0.1:{port}"],
        )
    server = spawn("server", "--port", port, *of_server)
    assert (
        server.stdout.readline()
        == f"listening at 127.0.0.1:{port}, samples are kept in spool; Ctrl-C ends it\n"
    )
    worker = spawn("worker", *of_worker, "--send-interval-s", "0.1")
    envs = "2 environments Pendulum-v1" if is_secure else "Pendulum-v1"
    assert worker.stdout.readline() == f"robot-1 acts in {envs}; Ctrl-C ends it\n"
    code, _, err = call("trainer", *of_trainer, *SHORT, "--name", "one")
    assert code == 0, err
    assert summary_of("one")["updates"] == 70
    code, _, err = call("trainer", "--resume", "runs/one", "--steps", "240")
    assert code == 0, err
    assert summary_of("one")["updates"] == 90
    code, out, err = call("status", *(of_trainer if is_secure else ["--server", f"127.0.0.1:{port}"]))
    assert code == 0, err
    assert re.search(r"^robot-1 +127.0.0.1 ", out, re.MULTILINE)
    assert ended(worker)[0] == 0
    assert list(Path("outbox/robot-1").iterdir())
    code, _, err = ended(server)
    assert (code, err) == (0, "")
    assert refuses_connections(port)


def test_a_run_serves_workers_that_come_by_themselves(call, spawn, crews):
    port = free_port()
    worker = spawn("worker", "--server", f"127.0.0.1:{port}", "--send-interval-s", "0.1")
    code, _, err = call("train", "--serve", "--port", port, *SHORT, "--name", "one")
    assert code == 0, err
    assert summary_of("one")["updates"] == 70
    assert Path("runs/one/spool/parcels").is_dir()
    assert [process.poll() for process in crews] == [0]
    assert ended(worker)[0] == 0
    assert not Path("outbox").exists(), "a worker without a name would never find its outbox again"


ROBOT = """
import os

import gymnasium
from gymnasium.envs.classic_control import PendulumEnv


class MyRobot(PendulumEnv):
    def reset(self, **options):
        assert "ROBOT" in os.environ, "there is no robot here"
        return super().reset(**options)


gymnasium.register("MyRobot-v0", MyRobot, max_episode_steps=50)
"""


def test_a_trainer_makes_a_robot_for_its_spaces_and_never_moves_it(call, spawn, server, monkeypatch):
    Path("my_robot.py").write_text(ROBOT)
    monkeypatch.syspath_prepend(Path.cwd())
    place = ("--server", f"127.0.0.1:{server.port}", "--env", "my_robot:MyRobot-v0")
    with monkeypatch.context() as robot:
        robot.setenv("ROBOT", "moves")
        worker = spawn("worker", *place, "--name", "robot-1", "--send-interval-s", "0.1")
    assert worker.stdout.readline() == "robot-1 acts in my_robot:MyRobot-v0; Ctrl-C ends it\n"
    code, out, err = call("trainer", *place, *SHORT[:-2], "--test-episodes", "0", "--name", "one")
    assert code == 0, err
    assert "test episodes" not in out
    assert summary_of("one")["updates"] == 70
    assert ended(worker)[0] == 0


def test_a_worker_in_step_and_a_trainer_that_needs_more_of_it_do_not_wait_for_ever(
    call, spawn, server, monkeypatch
):
    monkeypatch.setattr(offline, "CALL_AFTER_S", 0.1)
    place = ("--server", f"127.0.0.1:{server.port}")
    worker = spawn("worker", *place, "--initial-steps", 20, "--steps-per-policy", 20)
    code, _, err = call("trainer", *place, *SHORT, "--name", "one")
    assert code == 0, err
    assert summary_of("one")["updates"] == 70
    assert ended(worker)[0] == 0


def test_a_worker_ends_after_its_steps_and_all_of_them_are_with_the_server(call, server):
    code, out, err = call("worker", "--server", f"127.0.0.1:{server.port}", "--name", "w", "--steps", 60)
    assert (code, err) == (0, "")
    assert out == "w acts in Pendulum-v1; Ctrl-C ends it\n"
    (worker,) = server.report()["workers"]
    assert worker["samples"] in {60, 61}
    assert server.report()["spool"]["parcels"] == 1


@pytest.mark.parametrize("pace", [(), ("--initial-steps", 100)], ids=["freely", "in step"])
def test_a_worker_steps_several_environments_on_one_line(call, server, pace, caplog):
    """As ever: so many samples, of all of them, and test episodes, here beside them."""
    in_step = (*pace, "--steps-per-policy", 1000) if pace else ()
    arguments = ("worker", "--name", "w", "--num-envs", 3, "--seed", 5, "--test-interval", 1)
    with TrainerLine(server.loopback) as trainer:
        trainer.broadcast_model(make_actor("sac", *single_spaces(make_env("Pendulum-v1"))))
        code, out, err = call(*arguments, "--steps", 120, *in_step, "--server", f"127.0.0.1:{server.port}")
        assert (code, err) == (0, "")
        assert out == "w acts in 3 environments Pendulum-v1; Ctrl-C ends it\n"
        (worker,) = server.report()["workers"]
        assert 120 <= worker["samples"] - (102 if pace else 0) < 126
        buffer = retrieved(trainer, worker["samples"])
    lanes = lanes_of(buffer.memory)
    assert sorted(lanes) == ["w/0", "w/1", "w/2"]
    assert [sample.stamp.step for sample in lanes["w/2"]] == list(range(worker["samples"] // 3))
    assert len({tuple(lane[0][1]) for lane in lanes.values()}) == 3, "with seeds of their own"
    assert [(record.worker, record.is_test) for record in buffer.episodes] == [("w", True)]
    assert not caplog.text


def retrieved(trainer, n_samples):
    buffer = Buffer()

    def have_come():
        nonlocal buffer
        buffer += trainer.retrieve_buffer()
        return len(buffer) >= n_samples

    until(have_come)
    return buffer


def test_ctrl_c_sends_what_several_environments_have_made(spawn, server):
    worker = spawn(
        *("worker", "--name", "w", "--num-envs", 2, "--server", f"127.0.0.1:{server.port}"),
        *("--send-interval-s", 3600),
    )
    assert worker.stdout.readline() == "w acts in 2 environments Pendulum-v1; Ctrl-C ends it\n"
    until(lambda: server.report()["workers"])
    assert ended(worker) == (0, "", "")
    (report,) = server.report()["workers"]
    assert report["samples"] >= 4


@pytest.mark.skipif(os.name == "nt", reason="there are no background jobs of a shell there")
@pytest.mark.parametrize("pace", [(), ("--steps-per-policy", "20")], ids=["freely", "in step"])
def test_a_worker_ends_with_its_starter_also_where_a_shell_lets_it_ignore_ctrl_c(server, pace):
    """As it does for `tmrl train --workers 2 &` in a script."""
    ignoring = ("sh", "-c", "trap '' INT; exec \"$@\"", "sh")
    command = (*ignoring, sys.executable, "-m", "tmrl", "worker", "--until-stdin-closes", *pace)
    worker = subprocess.Popen(
        [*command, "--server", f"127.0.0.1:{server.port}"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    try:
        until(lambda: server.report()["workers"])
        worker.stdin.close()
        assert worker.wait(30) == 0
    finally:
        worker.kill()
        worker.wait()


def test_samples_that_no_server_took_are_told_and_sent_by_the_next_worker_of_that_name(call, server, caplog):
    away = free_port()
    arguments = ("worker", "--name", "w", "--steps", 20, "--close-s", 0.1)
    assert call(*arguments, "--server", f"127.0.0.1:{away}")[0] == 0
    assert "1 parcel of 'w' may not be safe with the server yet; the outbox keeps what is left" in caplog.text
    assert call(*arguments[:-1], 10, "--server", f"127.0.0.1:{server.port}")[0] == 0
    (worker,) = server.report()["workers"]
    assert worker["samples"] >= 40


def test_samples_in_memory_that_no_server_took_are_told(call, caplog):
    code, _, _ = call("worker", "--steps", 20, "--close-s", 0.1, "--server", f"127.0.0.1:{free_port()}")
    assert code == 0
    assert "the outbox was in memory, and ends with this line" in caplog.text


def test_status_is_a_table_or_json(call, server):
    address = f"127.0.0.1:{server.port}"
    code, out, _ = call("status", "--server", address)
    assert code == 0
    assert out.splitlines() == [
        f"server {address}: 0 parcels wait on disk, 0 bytes of 10.0 GB; policy 0",
        "trainer: has not come yet",
        "no worker has come yet",
    ]
    call("worker", "--server", address, "--name", "robot-1", "--steps", 20, "--outbox", "ram")
    out = call("status", "--server", address)[1]
    assert out.splitlines()[2].split() == [
        *("worker", "from", "seen", "samples", "/s", "waiting", "policy", "dropped", "twice", "lost")
    ]
    assert re.fullmatch(r"robot-1 away +\d+ s ago +2[01] +[\d,]+( +0){5}", out.splitlines()[3].strip())
    report = json.loads(call("status", "--server", address, "--json")[1])
    assert report["workers"][0]["name"] == "robot-1"
    assert report["spool"]["parcels"] == 1


def test_status_of_a_server_that_is_away_is_exit_code_1(call):
    port = free_port()
    code, out, err = call("status", "--server", f"127.0.0.1:{port}")
    assert (code, out) == (1, "")
    remedy = "see whether `tmrl server` runs there, and without --credentials"
    assert err == f"tmrl: 127.0.0.1:{port} cannot be reached: Connection refused; {remedy}\n"


def test_status_of_a_server_that_says_something_else_is_exit_code_1(call):
    async def serve(_, connection):
        await connection.receive()
        await connection.send(to_frame(Report(b'{"trainer": null}')))
        await connection.receive()

    listener = GrpcListener("127.0.0.1", 0)
    background.run(listener.start(serve))
    code, out, err = call("status", "--server", f"127.0.0.1:{listener.port}")
    background.run(listener.stop())
    assert (code, out) == (1, "")
    assert err == "tmrl: trainer of a report must be an object, got None\n"


WRONG = [
    (
        "server --host 0.0.0.0 --port 0",
        2,
        "needs credentials, got none for 0.0.0.0; .* give DIR as --credentials",
    ),
    ("server --port 70000", 2, "--port must be from 0 to 65535, got 70000"),
    ("server --spool-size much", 2, "--spool-size must be bytes with their unit, as in \"10GB\", got 'much'"),
    (
        "server --port 0 --credentials none",
        1,
        "none/ca.pem is missing; make credentials with `tmrl credentials",
    ),
    ("worker --server nowhere:99999", 2, "--server must be HOST or HOST:PORT, got 'nowhere:99999'; such as"),
    ("worker --server http://localhost", 2, "--server must be HOST or HOST:PORT, got 'http://localhost'"),
    ("worker --server 10.0.0.7", 2, "needs a credential, got none for 10.0.0.7; .* give it as --credential"),
    ("worker --credential none.json", 1, "none.json is missing; copy it again"),
    ("worker --name a/b", 2, "a worker's name must be 1 to 64 of A-Z a-z 0-9 . _ -, got 'a/b'"),
    ("worker --env None-v0", 2, "--env must be the id of a Gymnasium environment, got 'None-v0'"),
    ("worker --num-envs 0", 2, "--num-envs must be at least 1, got 0"),
    ("worker --steps 0", 2, "--steps must be at least 1, got 0"),
    ("worker --test-interval -1", 2, "--test-interval must be at least 0, got -1"),
    ("worker --send-interval-s 0", 2, "--send-interval-s must be above 0, got 0"),
    ("worker --close-s -1", 2, "--close-s must be at least 0, got -1"),
    ("worker --outbox-size 0GB", 2, "--outbox-size must be bytes with their unit, as in \"10GB\", got '0GB'"),
    (
        "train --workers 2 --serve",
        2,
        "samples come from one place, got --workers and --serve; give one of them",
    ),
    ("train --workers -1", 2, "--workers must be at least 0, got -1"),
    (
        "train --serve --num-envs 2",
        2,
        "--num-envs is for environments that this run steps itself, got it with --serve; give it to `tmrl w",
    ),
    ("train --serve --host 0.0.0.0", 2, "needs credentials, got none for 0.0.0.0"),
    ("train --serve --port 0", 2, "--port must be from 1 to 65535, got 0"),
    ("train --serve --credentials none", 1, "none/ca.pem is missing"),
    (
        "train --host 0.0.0.0",
        2,
        "--host and --credentials are those of --serve, got 0.0.0.0 .*; give --serve",
    ),
    ("trainer --server nowhere:port", 2, "--server must be HOST or HOST:PORT, got 'nowhere:port'"),
    ("trainer --server 10.0.0.7", 2, "needs a credential, got none for 10.0.0.7"),
    ("trainer --credential none.json", 1, "none.json is missing; copy it again"),
    ("status --watch-s 0", 2, "--watch-s must be above 0, got 0"),
    ("status --server nowhere", 2, "needs a credential, got none for nowhere"),
]


@pytest.mark.parametrize(("command", "exit_code", "message"), WRONG, ids=[command for command, _, _ in WRONG])
def test_a_wrong_call_is_one_line_with_the_remedy_and_leaves_nothing(call, command, exit_code, message):
    code, _, err = call(*command.split())
    assert code == exit_code
    assert re.search(message.replace("--", "[-][-]"), err)
    assert len(err.splitlines()) == 1
    assert not Path("runs").exists()
    assert not Path("outbox").exists()


def test_a_port_that_is_taken_is_a_wrong_call(call, server):
    code, _, err = call("server", "--port", server.port, "--spool", "ram")
    assert code == 2
    assert err.startswith(
        "tmrl: the server must listen at an address of this machine with a free port, got 127"
    )
    assert len(err.splitlines()) == 1


def test_a_run_that_cannot_serve_ends_at_once_and_says_why(call, server, crews):
    code, _, err = call("train", "--serve", "--port", server.port, *SHORT, "--name", "one")
    assert code == 1
    assert (
        "tmrl: `tmrl server` failed with 2: the server must listen at an address of this machine with" in err
    )
    assert [process.poll() for process in crews] == [2]


def test_an_outbox_that_is_in_use_is_told(call, server):
    from tmrl.networking.connecting import outbox_of

    outbox = outbox_of("w", "outbox")
    try:
        code, _, err = call("worker", "--server", f"127.0.0.1:{server.port}", "--name", "w")
    finally:
        outbox.close()
    assert code == 1
    assert re.search(r"outbox.w is open already, in this process or another; close it there", err)


def test_a_worker_that_may_not_use_a_name_is_told_and_ends(call, spawn):
    port = free_port()
    call("credentials", "init", "line", "--host", "127.0.0.1", "--port", port)
    call("credentials", "worker", "line", "robot-1")
    server = spawn("server", "--port", port, "--credentials", "line", "--spool", "ram")
    assert server.stdout.readline()
    code, _, err = call("worker", "--credential", "line/robot-1.json", "--name", "robot-2", "--outbox", "ram")
    assert code == 1
    assert "refuses: the certificate is that of 'robot-1', and not of 'robot-2'" in err
    code, _, err = call("trainer", "--credential", "line/robot-1.json", *SHORT, "--name", "one")
    assert code == 1
    assert "refuses: this needs the certificate of a trainer, got that of the worker 'robot-1'" in err


def test_a_worker_in_another_environment_is_named_and_disturbs_nobody(call, server, caplog):
    address = f"127.0.0.1:{server.port}"
    for name, env in (("odd", "CartPole-v1"), ("good", "Pendulum-v1")):
        assert call("worker", "--server", address, "--name", name, "--env", env, "--steps", 300)[0] == 0
    code, _, err = call("trainer", "--server", address, *SHORT, "--name", "one")
    assert code == 0, err
    told = r"the memory refuses samples of odd: worker 'odd', sample 0 of 30\d: obs"
    assert len(re.findall(told, caplog.text)) == 1
    assert summary_of("one")["memory"]["transitions"] <= 300


def test_a_credential_of_another_server_is_told(call, spawn):
    port = free_port()
    for folder in ("line", "other"):
        call("credentials", "init", folder, "--host", "127.0.0.1", "--port", port)
    server = spawn("server", "--port", port, "--credentials", "line", "--spool", "ram")
    assert server.stdout.readline()
    assert call("status", "--credential", "line/trainer.json")[0] == 0
    code, _, err = call("status", "--credential", "other/trainer.json")
    assert code == 1
    assert "its certificate is none that this credential trusts; see whether the credential is that of" in err
    code, _, err = call("status", "--server", f"127.0.0.1:{port}")
    assert code == 1
    assert err.endswith("see whether `tmrl server` runs there, and without --credentials\n")


def test_help_names_every_command_of_the_line(call):
    code, out, _ = call("--help")
    assert code == 0
    for command in ("trainer", "server", "worker", "status", "credentials"):
        assert f"• {command}" in out
        assert call(command, "--help")[0] == 0


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        (None, None, None),
        ("trainer.example.org", "trainer.example.org", None),
        ("10.0.0.7:55555", "10.0.0.7", 55555),
        ("::1", "::1", None),
        ("[::1]", "::1", None),
        ("[::1]:7", "::1", 7),
    ],
)
def test_an_address_is_a_host_and_maybe_a_port(text, host, port):
    assert Address.read(text) == Address(host, port)
