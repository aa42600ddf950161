"""`tmrl train --resume`: a run that was stopped, by hand or by force, goes on and ends as one run."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tmrl.errors import DatasetError
from tmrl.memory import ReplayMemory
from tmrl.runs.folder import RunFolder
from tmrl.training import Checkpoint

SMALL = ("--warm-up", "150", "--batch-size", "16", "--target-return", "-1e6")


pytestmark = pytest.mark.usefixtures("workplace")


def interrupt_after(updates, monkeypatch):
    """Ctrl-C comes in the middle of a training step."""
    from tmrl.agents import SACAgent

    train, count = SACAgent.train, 0

    def interrupted(self, batch):
        nonlocal count
        count += 1
        if count == updates:
            signal.raise_signal(signal.SIGINT)
        return train(self, batch)

    monkeypatch.setattr(SACAgent, "train", interrupted)


def json_of(name, file="summary.json"):
    return json.loads(Path("runs", name, file).read_text())


def test_a_run_that_was_stopped_by_ctrl_c_goes_on_to_its_end(call, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_after(260, patch)
        assert call("train", *SMALL, "--steps", "650", "--name", "one")[0] == 130
    stopped = json_of("one")
    assert (stopped["interrupted"], stopped["updates"]) == (True, 260)
    assert Checkpoint("runs/one/checkpoint").counters()["total_updates"] == 260
    newest_policy = ReplayMemory.load("runs/one/checkpoint").newest_policy
    code, out, err = call("train", "--resume", "runs/one")
    assert code == 0, err
    assert "runs/one goes on after 260 updates" in out
    summary = json_of("one")
    assert (summary["interrupted"], summary["updates"]) == (False, 500)
    assert summary["memory"]["draws"] == 500 * 16
    assert len(summary["test_returns"]) == 10
    # Policies are numbered on.
    assert ReplayMemory.load("runs/one/checkpoint").newest_policy > newest_policy > 0
    assert summary["timing"]["seconds"] > stopped["timing"]["seconds"]
    # B58: one update for each step after the first, also after the resume.
    assert 0 <= summary["env_steps"] - (500 + 150) < 110


@pytest.mark.parametrize(("more", "num_envs"), [((), 4), (("--num-envs", "1"), 1), (("--num-envs", "5"), 5)])
def test_a_run_of_many_environments_goes_on_also_with_another_number(call, monkeypatch, more, num_envs):
    with monkeypatch.context() as patch:
        interrupt_after(60, patch)
        arguments = (*SMALL, "--crc-debug", "--num-envs", "4", "--steps", "350", "--name", "one")
        assert call("train", *arguments)[0] == 130
    code, _, err = call("train", "--resume", "runs/one", *more)
    assert code == 0, err
    summary = json_of("one")
    assert (summary["updates"], summary["num_envs"]) == (200, num_envs)
    assert summary["memory"]["crc_checked"] > 0
    assert json_of("one", "config.json")["num_envs"] == num_envs
    # B58: one update for each step after the first, also after the resume.
    assert 0 <= summary["env_steps"] - 350 < 110


def test_the_curve_tells_of_the_whole_run_and_tensorboard_goes_on(call, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_after(450, patch)
        call("train", *SMALL, "--steps", "900", "--name", "one")
    points = []
    monkeypatch.setattr(
        "tmrl.runs.session.draw_curve", lambda path, title, all_points, *_: points.extend(all_points)
    )
    assert call("train", "--resume", "runs/one")[0] == 0
    steps = [point.env_steps for point in points if not point.is_test]
    assert steps == sorted(steps)
    assert steps[0] <= 251
    assert steps[-1] > 800
    events = EventAccumulator("runs/one")
    events.Reload()
    logged = [event.step for event in events.Scalars("return/train")]
    assert logged == steps


def test_a_resume_takes_the_settings_of_the_run_and_the_flags_given_now(call, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_after(50, patch)
        call("train", *SMALL, "--steps", "300", "--name", "one", "--memory-size", "5000")
    flags = ("--batch-size", "32", "--memory-size", "100", "--learning-rate", "0.002", "--steps", "350")
    code, _, err = call("train", "--resume=runs/one", *flags)
    assert code == 0, err
    config, summary = json_of("one", "config.json"), json_of("one")
    assert (config["batch_size"], config["steps"], config["warm_up"]) == (32, 350, 150)
    assert config["name"] == "one"
    assert "resume" not in config
    assert summary["updates"] == 200
    assert summary["memory"]["capacity"] == 100
    assert summary["memory"]["draws"] == 50 * 16 + 150 * 32
    call("train", "--resume", "runs/one", "--steps", "360")
    assert json_of("one")["memory"]["draws"] == 50 * 16 + 160 * 32


def test_the_learning_rate_given_now_reaches_the_optimisers(call):
    from tmrl.runs.session import Session
    from tmrl.runs.settings import TrainSettings

    call("train", *SMALL, "--steps", "200", "--name", "one")
    config = json_of("one", "config.json") | {"learning_rate": 0.5}
    session = Session(TrainSettings.from_config(config, Path("runs/one")), Checkpoint("runs/one/checkpoint"))
    session.feed.worker.close()
    assert session.training.agent._critic_adam.param_groups[0]["lr"] == 0.5


def test_a_finished_run_says_so_and_goes_on_with_more_steps(call):
    call("train", *SMALL, "--steps", "200", "--name", "one")
    before = json_of("one")
    code, _, err = call("train", "--resume", "runs/one")
    assert code == 2
    assert "runs/one is finished, with 50 of 50 updates and the final test; train longer with --steps" in err
    assert json_of("one") == before
    assert call("train", "--resume", "runs/one", "--steps", "260")[0] == 0
    assert json_of("one")["updates"] == 110


def test_ctrl_c_in_the_final_test_leaves_only_the_test_to_do(call, monkeypatch):
    from tmrl.runs import session

    with monkeypatch.context() as patch:
        patch.setattr(session, "run_tests", lambda *_: signal.raise_signal(signal.SIGINT))
        assert call("train", *SMALL, "--steps", "200", "--name", "one")[0] == 130
    assert call("train", "--resume", "runs/one")[0] == 0
    summary = json_of("one")
    assert (summary["updates"], len(summary["test_returns"]), summary["interrupted"]) == (50, 10, False)


def test_no_transition_joins_the_two_sides_of_a_resume(call, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_after(60, patch)
        call("train", *SMALL, "--steps", "400", "--name", "one")
    before = len(ReplayMemory.load("runs/one/checkpoint"))
    call("train", "--resume", "runs/one")
    memory = ReplayMemory.load("runs/one/checkpoint")
    last, first = memory.get_transition(before - 1), memory.get_transition(before)
    assert not (last[3] == first[0]).all()
    assert [stats.gaps for stats in memory.stats().workers.values()] == [0]
    # Pendulum starts within these bounds of its speed; the environment starts from a state of its own.
    assert abs(first[0][2]) <= 1.0
    assert not (memory.get_transition(0)[0] == first[0]).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--resume", "runs/none"), "--resume must be the folder of a run, but runs/none has no config.json"),
        (
            ("--resume", "runs/early"),
            "runs/early has no checkpoint to go on from, because the run ended before",
        ),
        (
            ("--resume", "runs/one", "--env", "X"),
            "--env of a run that goes on must stay 'Pendulum-v1', got 'X'",
        ),
        (
            ("--resume", "runs/one", "--name", "two"),
            "--name of a run that goes on must stay 'one', got 'two'",
        ),
        (
            ("--resume", "runs/one", "--seed", "1"),
            "--seed of a run that goes on must stay 0, got 1; leave it out",
        ),
        (
            ("--resume", "runs/one", "--crc-debug"),
            "--crc-debug of a run that goes on must stay False, got True",
        ),
        (("--resume", "runs/one", "--batch-size", "0"), "--batch-size must be at least 1, got 0"),
        (("--resume", "runs/odd"), "the config.json of runs/odd must hold the settings of a run, but"),
        (("--resume", "runs/old"), "the config.json of runs/old must hold the settings of a run, but"),
        (("--resume", "runs/bad", "--steps", "999"), "manifest.json is damaged"),
        (("--resume",), "--resume"),
        (("--checkpoint-interval-s", "-1"), "--checkpoint-interval-s must be at least 0, got -1.0"),
    ],
)
def test_a_resume_that_cannot_be_is_exit_code_2_with_a_message(call, arguments, message):
    call("train", *SMALL, "--steps", "160", "--name", "one")
    for name in ("early", "odd", "old", "bad"):
        shutil.copytree("runs/one", f"runs/{name}")
    shutil.rmtree("runs/early/checkpoint")
    Path("runs/odd/config.json").write_text('{"batch_size": "many"}')
    Path("runs/old/config.json").write_text('{"batch_sizes": 3}')
    Path("runs/bad/checkpoint/manifest.json").write_text("{")
    before = {path: path.read_bytes() for path in Path("runs").rglob("[!.]*") if path.is_file()}
    code, _, err = call("train", *arguments)
    assert code == 2
    assert message in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err
    assert before == {path: path.read_bytes() for path in Path("runs").rglob("[!.]*") if path.is_file()}


def test_a_run_in_use_by_another_process_is_refused(call):
    call("train", *SMALL, "--steps", "160", "--name", "one")
    with RunFolder(Path("runs/one")).claim():
        code, _, err = call("train", "--resume", "runs/one", "--steps", "200")
    assert code == 2
    assert "runs/one is in use by another process that trains it; wait for its end, or stop it" in err


def test_the_checkpoint_of_a_run_that_never_stopped_is_that_of_one_that_did_not_save(call):
    """Saving changes nothing."""
    for name, interval in (("rarely", "60"), ("always", "0")):
        call("train", *SMALL, "--steps", "200", "--name", name, "--checkpoint-interval-s", interval)
    summaries = {name: json_of(name) | {"timing": None} for name in ("rarely", "always")}
    assert summaries["rarely"] == summaries["always"]


# kill -9

CHILD = [sys.executable, "-m", "tmrl", "train", "--checkpoint-interval-s", "0.02"]


def updates_saved(folder):
    """Updates in the newest checkpoint, or -1; what is read while it is replaced may be gone."""
    try:
        return Checkpoint(folder).counters()["total_updates"]
    except (DatasetError, OSError):
        return -1


def has_ended(child, timeout_s):
    """Waits so long, and tells whether the child has ended."""
    try:
        child.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def kill_and_resume(kills, seed):
    """Kills a run at random moments, mostly while it saves; each time the next goes on from what was seen."""
    rng = random.Random(seed)
    folder = Path("runs/one/checkpoint")
    seen = -1
    for kill in range(kills):
        new = (*SMALL, "--steps", "1000000", "--memory-size", "3000", "--name", "one")
        command = [*CHILD, *(new if seen < 0 else ("--resume", "runs/one"))]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as child:
            target = seen + rng.randrange(1, 80)
            while updates_saved(folder) < target:
                assert not has_ended(child, 0.005), child.stderr.read().decode()
            assert not has_ended(child, rng.uniform(0, 0.1))
            acknowledged = updates_saved(folder)
            child.kill()
            child.wait()
        saved = check(folder)
        assert saved >= max(acknowledged, seen), f"kill {kill}"
        seen = saved
    return seen


def check(folder):
    """Everything in the checkpoint is of one instant; returns its updates."""
    counters = Checkpoint(folder).counters()
    memory = ReplayMemory.load(folder)
    stats = memory.stats()
    assert stats.appended == counters["total_samples"]
    assert stats.draws == 16 * counters["total_updates"]
    assert (stats.gaps, stats.duplicates) == (0, 0)
    assert counters["total_updates"] <= counters["total_samples"]
    return counters["total_updates"]


@pytest.mark.skipif(os.name == "nt", reason="kill -9 is a thing of POSIX")
def test_five_kills_lose_nothing_that_was_saved_and_the_run_ends(call):
    seen = kill_and_resume(kills=5, seed=0)
    code, out, err = call("train", "--resume", "runs/one", "--steps", str(seen + 150 + 100))
    assert code == 0, err
    assert f"goes on after {seen:,} updates" in out
    assert json_of("one")["updates"] == seen + 100


@pytest.mark.stress
@pytest.mark.timeout(3600)
@pytest.mark.skipif(os.name == "nt", reason="kill -9 is a thing of POSIX")
def test_a_hundred_kills_lose_nothing_that_was_saved():
    kill_and_resume(kills=100, seed=1)
