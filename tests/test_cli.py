import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tmrl.datasets import open_dataset
from tmrl.memory import ReplayMemory
from tmrl.runs.session import Session
from tmrl.runs.settings import TrainSettings

SHORT = ("--steps", "220", "--warm-up", "150", "--batch-size", "16")


pytestmark = pytest.mark.usefixtures("workplace")


def spawn(*arguments, prelude=""):
    """Runs `python -m tmrl` in a process of its own, after a line of python."""
    program = f"{prelude}; from tmrl.cli import main; main({list(arguments)!r})" if prelude else None
    command = ["-c", program] if program else ["-m", "tmrl", *arguments]
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=120, check=False
    )


def summary_of(name):
    return json.loads(Path("runs", name, "summary.json").read_text())


def test_a_run_leaves_config_metrics_policy_curve_and_summary(call):
    code, out, err = call(
        "train", *SHORT, "--name", "one", "--target-return", "-1e6", "--memory-size", "5000"
    )
    assert code == 0, err
    assert "mean return of 10 test episodes: -" in out
    folder = Path("runs/one")
    names = sorted(
        path.name for path in folder.iterdir() if not path.name.startswith(("events.out.tfevents", "."))
    )
    assert names == [
        *("checkpoint", "config.json", "learning_curve.png", "policy.safetensors", "summary.json")
    ]
    assert any(folder.glob("events.out.tfevents*"))
    config, summary = json.loads((folder / "config.json").read_text()), summary_of("one")
    assert config["env"] == "Pendulum-v1"
    assert config["batch_size"] == 16
    assert config["versions"]["torch"] == str(torch.__version__)
    assert summary["updates"] == 70
    assert summary["env_steps"] >= 220
    assert summary["memory"]["draws"] == 70 * 16
    assert summary["memory"]["capacity"] == 5000
    assert len(summary["test_returns"]) == 10
    assert summary["interrupted"] is False
    assert (folder / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert load_file(folder / "policy.safetensors")["policy.body.0.weight"].shape == (256, 3)


def test_same_seed_gives_the_same_run_and_another_seed_another(call):
    outcomes = {}
    for name, seed in (("first", "3"), ("again", "3"), ("other", "4")):
        assert call("train", *SHORT, "--name", name, "--seed", seed, "--target-return", "-1e6")[0] == 0
        summary = summary_of(name)
        del summary["timing"], summary["seed"]
        outcomes[name] = summary
    assert outcomes["first"] == outcomes["again"]
    assert outcomes["first"]["test_returns"] != outcomes["other"]["test_returns"]
    policies = {name: load_file(f"runs/{name}/policy.safetensors") for name in outcomes}
    for name, weight in policies["first"].items():
        assert torch.equal(weight, policies["again"][name])


def test_eval_prints_each_return_and_their_mean(call):
    call("train", *SHORT, "--name", "one", "--target-return", "-1e6")
    code, out, _ = call("eval", "runs/one", "--episodes", "3", "--seed", str(1_000_000))
    assert code == 0
    *episodes, figure = out.splitlines()
    found = [float(line.split(": ")[1]) for line in episodes]
    assert found == pytest.approx(summary_of("one")["test_returns"][:3], abs=0.06)
    assert figure.startswith(f"mean return of 3 test episodes: {sum(found) / 3:.1f}"[:-1])
    assert call("eval", "runs/one", "--episodes", "3", "--seed", "7")[1] != out


def test_a_target_that_is_not_reached_is_exit_code_1_and_said(call):
    code, _, err = call("train", *SHORT, "--name", "one", "--seed", "0")
    assert code == 1
    assert "the mean test return must be at least -250, got -" in err
    assert "--steps" in err
    assert summary_of("one")["reached_target"] is False


def test_the_target_is_that_of_pendulum_unless_given():
    assert TrainSettings().target == -250.0
    assert TrainSettings(env="HalfCheetah-v5").target is None
    assert TrainSettings(env="HalfCheetah-v5", target_return=100.0).target == 100.0


def test_a_run_without_a_final_test_says_nothing_of_one(call):
    code, out, err = call("train", *SHORT, "--test-episodes", "0", "--name", "one")
    assert (code, err) == (0, "")
    assert "test episodes" not in out
    summary = json.loads(Path("runs/one/summary.json").read_text())
    assert (summary["interrupted"], summary["updates"], summary["test_returns"]) == (False, 70, [])
    assert summary["test_return_mean"] is summary["target_return"] is summary["reached_target"] is None
    assert Path("runs/one/learning_curve.png").exists()


def test_the_band_of_samples_reaches_the_loop():
    assert Session(TrainSettings(max_env_steps_ahead=20.0)).training.rate_limit.max_env_steps_ahead == 20
    assert Session(TrainSettings()).training.rate_limit.max_env_steps_ahead == np.inf


def test_many_environments_train_one_policy(call):
    """B03, B59: every transition drawn is compared with what its lane saw, through the whole command."""
    arguments = (*SHORT, "--num-envs", "3", "--crc-debug", "--target-return", "-1e6")
    outcomes = []
    for name in ("one", "again"):
        code, _, err = call("train", *arguments, "--name", name)
        assert code == 0, err
        outcomes.append(summary_of(name))
        del outcomes[-1]["timing"]
    assert outcomes[0] == outcomes[1]
    (summary, _), folder = outcomes, Path("runs/one")
    assert json.loads((folder / "config.json").read_text())["num_envs"] == summary["num_envs"] == 3
    assert summary["updates"] == 70
    assert summary["memory"]["crc_checked"] == summary["memory"]["draws"] == 70 * 16
    # Steps come in whole steps of all: at most one exchange more than asked for, and the resets.
    assert 220 <= summary["env_steps"] <= 220 + 51 + 3
    memory = ReplayMemory.load(folder / "checkpoint")
    streams = memory.stats().workers
    assert sorted(streams) == ["local/0", "local/1", "local/2"]
    assert len({worker.appended for worker in streams.values()}) == 1


def test_crc_debugging_checks_every_transition_that_is_drawn(call):
    assert call("train", *SHORT, "--name", "one", "--crc-debug", "--target-return", "-1e6")[0] == 0
    memory = summary_of("one")["memory"]
    assert memory["crc_checked"] == memory["draws"] == 70 * 16


def test_an_existing_run_is_left_as_it_is(call):
    folder = Path("runs/mine")
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text("precious")
    code, _, err = call("train", *SHORT, "--name", "mine")
    assert code == 2
    assert "the run runs/mine exists and is left as it is; give another --name" in err
    assert [path.name for path in folder.iterdir()] == ["summary.json"]
    assert (folder / "summary.json").read_text() == "precious"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--batch-size", "0"), "--batch-size must be at least 1, got 0"),
        (("--memory-size", "0"), "--memory-size must be at least 1, got 0"),
        (("--num-envs", "0"), "--num-envs must be at least 1, got 0"),
        (
            ("--num-envs", "9", "--steps", "8"),
            "--num-envs must be at most --steps, 8, got 9; each of them makes at least one step",
        ),
        (("--num-envs", "2", "--env", "Pendulum-v99"), "--env must be the id of a Gymnasium environment"),
        (("--steps", "-1"), "--steps must be at least 1, got -1"),
        (("--seed", "-1"), "--seed must be at least 0, got -1"),
        (("--learning-rate", "0"), "--learning-rate must be above 0 and finite, got 0.0"),
        (("--name", "../up"), "--name must be the name of a folder to make in runs/, got '../up'"),
        (("--env", "Pendulum-v99"), "--env must be the id of a Gymnasium environment, got 'Pendulum-v99'"),
        (
            ("--env", "no_module:Env-v0"),
            "--env must be the id of a Gymnasium environment, got 'no_module:Env-v0'",
        ),
        (
            ("--env", "CartPole-v1", "--agent", "sac"),
            "must be a Box of floating-point numbers for SAC, got Discrete(2)",
        ),
        (("--agent", "dqn"), "the action space must be Discrete for DQN, got Box"),
        (("--agent", "ppo"), "ppo"),
        (("--n-step", "0"), "--n-step must be at least 1, got 0"),
        (("--frame-stack", "0"), "--frame-stack must be at least 1, got 0"),
        (("--max-env-steps-ahead", "0"), "--max-env-steps-ahead must be above 0 and finite, got 0.0"),
        (("--test-episodes", "-1"), "--test-episodes must be at least 0, got -1"),
        (
            ("--test-episodes", "0", "--target-return", "-250"),
            "--target-return is that of the final test, got -250 and --test-episodes 0; leave one of them",
        ),
        (("--updates-per-step", "0"), "--updates-per-step must be above 0 and finite, got 0.0"),
        (("--demos", "d", "--demo-fraction", "1"), "--demo-fraction must be between 0 and 1, got 1.0"),
        (("--demo-fraction", "0.5"), "mixes --demos with the samples of the run, and takes no --dataset"),
        (("--device", "meat"), "--device must be one that torch can use here, got 'meat'"),
        (("--stepz", "3"), "--stepz"),
        (("--steps", "many"), "many"),
    ],
)
def test_a_wrong_call_is_exit_code_2_with_a_message_and_leaves_nothing(call, arguments, message):
    code, _, err = call("train", *arguments)
    assert code == 2
    assert message in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err
    assert not Path("runs").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without CUDA")
def test_cuda_without_cuda_is_refused_with_a_remedy(call):
    code, _, err = call("train", "--device", "cuda")
    assert code == 2
    assert "got 'cuda'" in err
    assert "use --device cpu" in err


def test_a_folder_that_is_no_run_is_refused(call):
    Path("empty").mkdir()
    code, _, err = call("eval", "empty")
    assert code == 2
    assert "empty must be the folder of a run, but has no config.json and no policy.safetensors" in err


def test_a_run_with_a_broken_policy_or_config_is_refused(call):
    folder = Path("runs/bad")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"env": "Pendulum-v1"}')
    (folder / "policy.safetensors").write_bytes(b"no policy")
    code, _, err = call("eval", "runs/bad")
    assert code == 2
    assert "policy.safetensors must hold the weights of a SquashedGaussianActor" in err
    (folder / "config.json").write_text("{")
    code, _, err = call("eval", "runs/bad")
    assert code == 2
    assert "config.json must hold JSON, but cannot be read" in err


def test_no_episodes_to_eval_are_refused(call):
    code, _, err = call("eval", "runs/any", "--episodes", "0")
    assert code == 2
    assert "--episodes must be at least 1 and --seed at least 0, got 0 and 0" in err


@pytest.mark.parametrize(
    ("env", "module", "extra"), [("HalfCheetah-v5", "mujoco", "mujoco"), ("ALE/Pong-v5", "ale_py", "atari")]
)
def test_a_missing_extra_is_named_with_the_name_of_the_distribution(env, module, extra):
    ended = spawn("train", "--env", env, prelude=f"import sys; sys.modules['{module}'] = None")
    assert ended.returncode == 2
    assert f'{env} needs a package that is missing; pip install "tmrl-memory[{extra}]"' in ended.stderr
    assert "Traceback" not in ended.stderr


def test_another_distribution_that_is_imported_as_tmrl_is_refused(call, tmp_path, monkeypatch):
    other = tmp_path / "site" / "tmrl-0.7.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: tmrl\nVersion: 0.7.1\n")
    monkeypatch.syspath_prepend(str(other.parent))
    code, _, err = call("train", *SHORT)
    assert code == 2
    assert "tmrl 0.7.1 is installed beside tmrl-memory" in err
    assert "pip uninstall --yes tmrl" in err


def test_version_and_help_read_well(call):
    code, out, _ = call("--version")
    assert (code, out) == (0, "tmrl-memory 1.0.0\n")
    code, out, _ = call("--help")
    assert code == 0
    assert "train" in out
    assert "eval" in out
    code, out, _ = call("train", "--help")
    assert code == 0
    for flag in ("--env", "--steps", "--seed", "--batch-size", "--memory-size", "--crc-debug", "--device"):
        assert flag in out


def test_python_m_tmrl_is_tmrl():
    ended = spawn("--version")
    assert (ended.returncode, ended.stdout) == (0, "tmrl-memory 1.0.0\n")


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
@pytest.mark.skipif(os.name == "nt", reason="a closed pipe is told otherwise there")
@pytest.mark.parametrize("command", ["--help", "train --help", "--version", "record out --env Pendulum-v1"])
def test_output_that_nobody_reads_any_more_ends_a_command_quietly(command):
    """As in `tmrl --help | head -3`."""
    reader, writer = os.pipe()
    os.close(reader)
    run = [sys.executable, "-m", "tmrl", *command.split()]
    ended = subprocess.run(run, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (1, "")


def test_a_module_beside_the_command_is_found_as_python_m_finds_it(workplace):
    Path("my_robot.py").write_text("raise RuntimeError('it is imported')")
    program = "import sys; sys.path.remove(''); from tmrl.cli import main; main()"
    command = [sys.executable, "-c", program, "train", "--env", "my_robot:MyRobot-v0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "RuntimeError: it is imported" in ended.stderr


def test_ctrl_c_leaves_policy_curve_and_summary():
    command = [
        sys.executable,
        "-u",
        "-m",
        "tmrl",
        "train",
        "--steps",
        "100000",
        "--name",
        "cut",
        "--batch-size",
        "8",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert "updates" in process.stdout.readline()  # the first line of progress
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in out
    assert "Traceback" not in err
    summary = summary_of("cut")
    assert summary["interrupted"] is True
    assert summary["test_returns"] is None
    assert summary["updates"] >= 1
    for name in ("policy.safetensors", "learning_curve.png"):
        assert Path("runs/cut", name).stat().st_size > 1000


def test_a_run_without_a_name_gets_one_of_its_own(call):
    for _ in range(2):
        assert call("train", *SHORT, "--target-return", "-1e6")[0] == 0
    names = [path.name for path in Path("runs").iterdir()]
    assert len(names) == 2
    assert all(name.startswith(f"Pendulum-v1-{time.strftime('%Y')}") for name in names)


def test_nested_observations_train_through_the_command(call):
    class Nested(gymnasium.Env):
        observation_space = gymnasium.spaces.Dict(
            {
                "position": gymnasium.spaces.Box(-1, 1, (2,)),
                "last": gymnasium.spaces.Tuple([gymnasium.spaces.Box(-1, 1)]),
            }
        )
        action_space = gymnasium.spaces.Box(-1, 1, (2,))

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.observation_space.seed(seed)
            return self.observation_space.sample(), {}

        def step(self, action):
            return self.observation_space.sample(), float(-action.sum()), False, False, {}

    gymnasium.register("Nested-v0", Nested, max_episode_steps=20)
    try:
        code, _, err = call("train", *SHORT, "--env", "Nested-v0", "--name", "nested")
    finally:
        del gymnasium.registry["Nested-v0"]
    assert code == 0, err
    assert summary_of("nested")["target_return"] is None


def test_record_export_and_train_go_together(call):
    code, out, err = call("record", "demo", "--env", "Pendulum-v1", "--episodes", "2", "--max-steps", "30")
    assert code == 0, err
    assert "2 episodes were recorded in demo" in out
    code, out, _ = call("export", "demo", "demo.npz", "--to", "npz")
    assert (code, out) == (0, "60 transitions of 2 episodes are in demo.npz\n")
    begin = ("--dataset", "demo.npz", "--demos", "demo", "--memory-size", "1MB")
    code, _, err = call("train", *SHORT, "--name", "one", "--target-return", "-1e6", *begin)
    assert code == 0, err
    sources = {episode.source for episode in open_dataset("runs/one/checkpoint").episodes()}
    assert sources == {"online", "demo"}
    assert json.loads(Path("runs/one/config.json").read_text())["dataset"] == "demo.npz"
    code, out, err = call("record", "more", "--policy", "runs/one", "--episodes", "1", "--max-steps", "5")
    assert code == 0, err
    assert "1 episodes were recorded in more" in out


def test_export_says_what_was_dropped(call):
    columns = {"obs": [0.0] * 4, "act": [0.0] * 4, "rew": [0.0] * 4, "terminated": [False] * 4}
    np.savez("data.npz", **columns, episode=[0, 0, 0, 1])
    code, _, err = call("export", "data.npz", "out", "--to", "minari")
    assert code == 2
    assert "Minari cannot hold 1 episodes without a transition; give drop=True (--drop)" in err
    code, out, _ = call("export", "data.npz", "out", "--to", "minari", "--drop")
    assert code == 0
    assert "- there is no reset: the first sample of each episode was taken for its reset" in out
    assert "- Minari cannot hold 1 episodes without a transition" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("export", "nothing", "out"), "nothing must be a folder of this package, a memory that was saved"),
        (("export", "nothing", "out", "--to", "csv"), "csv"),
        (("record", "out"), "--env must be given for random actions"),
        (("record", "out", "--env", "Pendulum-v1", "--episodes", "0"), "--episodes and --max-steps must be"),
        (("train", "--dataset", "nothing"), "nothing must be a folder of this package"),
    ],
)
def test_a_wrong_call_about_datasets_is_exit_code_2_and_leaves_nothing(call, arguments, message, tmp_path):
    code, _, err = call(*arguments)
    assert code == 2
    assert message in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


class Pixels(gymnasium.Env):
    """Noise in the shape of a game's frames."""

    observation_space = gymnasium.spaces.Box(0, 255, (84, 84), np.uint8)
    action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.integers(0, 256, (84, 84), np.uint8), {}

    def step(self, action):
        return self.np_random.integers(0, 256, (84, 84), np.uint8), float(action), False, False, {}


@pytest.fixture
def pixels():
    gymnasium.register("Pixels-v0", Pixels, max_episode_steps=20)
    yield
    del gymnasium.registry["Pixels-v0"]


@pytest.mark.parametrize(
    ("env", "flags"),
    [
        ("CartPole-v1", ()),
        ("CartPole-v1", ("--n-step", "3", "--crc-debug")),
        ("Pixels-v0", ()),
        ("Pixels-v0", ("--frame-stack", "4", "--n-step", "2", "--crc-debug")),
    ],
)
@pytest.mark.usefixtures("pixels")
def test_numbered_actions_are_trained_by_dqn_evaluated_recorded_and_resumed(call, env, flags):
    short = ("--steps", "60", "--warm-up", "40", "--batch-size", "4", *flags)
    code, _, err = call("train", *short, "--env", env, "--name", "one")
    assert code == 0, err
    summary = summary_of("one")
    assert (summary["agent"], summary["updates"]) == ("dqn", 20)
    name = "network.head.advantage.0.weight"
    assert load_file("runs/one/policy.safetensors")[name].shape[0] == (512 if env == "Pixels-v0" else 128)
    code, out, err = call("eval", "runs/one", "--episodes", "2", "--seed", "1000000")
    assert code == 0, err
    found = [float(line.split(": ")[1]) for line in out.splitlines()[:2]]
    assert found == pytest.approx(summary["test_returns"][:2], abs=0.06)
    code, _, err = call("record", "out", "--policy", "runs/one", "--episodes", "1", "--max-steps", "5")
    assert code == 0, err
    assert open_dataset("out").about.environment == env
    code, out, err = call("train", "--resume", "runs/one", "--steps", "70")
    assert code == 0, err
    assert "goes on after 20 updates" in out
    assert summary_of("one")["updates"] == 30
    assert call("train", "--resume", "runs/one", "--agent", "sac")[0] == 2


@pytest.mark.usefixtures("pixels")
def test_stacked_frames_are_stored_once(call):
    sizes = []
    for stack in ("1", "4"):
        short = ("--steps", "60", "--warm-up", "50", "--batch-size", "4", "--memory-size", "100")
        code, _, err = call("train", *short, "--env", "Pixels-v0", "--frame-stack", stack, "--name", stack)
        assert code == 0, err
        sizes.append(summary_of(stack)["memory"]["bytes_full"])
    assert sizes[1] < 1.01 * sizes[0]
    assert load_file("runs/4/policy.safetensors")["network.body.layers.0.weight"].shape[1] == 4


def test_redq_updates_as_often_as_it_is_told(call):
    arguments = ("--agent", "redq", "--steps", "160", "--warm-up", "150", "--batch-size", "8")
    code, _, err = call(
        "train", *arguments, "--name", "one", "--updates-per-step", "4", "--target-return=-1e6"
    )
    assert code == 0, err
    summary = summary_of("one")
    assert (summary["agent"], summary["updates"]) == ("redq", 40)
    assert 160 <= summary["env_steps"] <= 260
    assert call("eval", "runs/one", "--episodes", "1")[0] == 0
