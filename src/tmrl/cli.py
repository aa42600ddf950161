"""The command line: `tmrl train`, `eval`, `record`, `export`. Thin: it does no work; nobody imports it.

Exit codes: 0 done, 1 the target was not reached, 2 a wrong call, 130 interrupted. A wrong call is told in a
short message with the remedy. Heavy libraries are loaded by the command that needs them.
"""

import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import tyro
from rich.console import Console

from tmrl import __version__
from tmrl.runs.record import RecordSettings
from tmrl.runs.settings import TrainSettings

WRONG_CALL = 2
INTERRUPTED = 130


def train(settings: Annotated[TrainSettings, tyro.conf.arg(name="")]) -> int:
    """Train a soft actor-critic agent and leave its policy, curve and summary in runs/<name>/."""
    import torch

    from tmrl.runs.folder import RunFolder, check_name_is_free
    from tmrl.runs.session import Session

    console = Console()
    with _wrong_calls_told():
        settings.check()
        torch.set_num_threads(settings.threads)
        if settings.name is not None:
            check_name_is_free(settings.name)
        session = Session(settings)
        folder = RunFolder.create(settings.name, settings.env)
    outcome = session.run(folder, console)
    console.print(f"policy, curve and summary are in {folder.path}", soft_wrap=True, highlight=False)
    if outcome.returns is None:
        console.print("interrupted before the end")
        return INTERRUPTED
    console.print(_figure(outcome.returns), highlight=False)
    if outcome.is_on_target:
        return 0
    _tell(
        f"the mean test return must be at least {settings.target:g}, got {outcome.mean:.1f}; "
        "train longer with --steps, or give another --seed or --target-return"
    )
    return 1


def evaluate(run: tyro.conf.Positional[Path], episodes: int = 10, seed: int = 0) -> int:
    """Test the policy that a run left, without exploration.

    Args:
        run: Folder of the run, such as runs/my-run.
        episodes: Episodes to test.
        seed: Seed of the environment.
    """
    from functools import partial

    from tmrl.runs.record import load_policy
    from tmrl.runs.session import make_env, run_tests

    with _wrong_calls_told():
        if episodes < 1 or seed < 0:
            raise ValueError(
                f"--episodes must be at least 1 and --seed at least 0, got {episodes} and {seed}"
            )
        env_id, make_actor = load_policy(run)
        env_cls = partial(make_env, env_id)
        env = env_cls()
        actor = make_actor(env.observation_space, env.action_space)
        env.close()
    returns = run_tests(env_cls, actor, episodes, seed)
    console = Console()
    for episode, episode_return in enumerate(returns):
        console.print(f"episode {episode}: {episode_return:.1f}", highlight=False)
    console.print(_figure(returns), highlight=False)
    return 0


def record(settings: Annotated[RecordSettings, tyro.conf.arg(name="")]) -> int:
    """Record complete episodes of a policy as a dataset; Ctrl-C stops, and what is recorded stays."""
    from tmrl.runs.record import Recorder

    console = Console()
    with _wrong_calls_told():
        n_recorded = Recorder(settings).record(console)
    console.print(f"{n_recorded} episodes were recorded in {settings.out}", soft_wrap=True, highlight=False)
    return 0 if n_recorded == settings.episodes else INTERRUPTED


def export(
    path: tyro.conf.Positional[str],
    out: tyro.conf.Positional[Path],
    to: Literal["native", "minari", "npz"] = "native",
    drop: bool = False,
) -> int:
    """Write recorded data in another format.

    Args:
        path: A dataset, a saved memory, a folder with a data.pkl, an .npz file, a Minari dataset or its id.
        out: A new folder, or for npz a new file.
        to: The format.
        drop: Leave out, or convert, what the format cannot hold.
    """
    from tmrl.datasets.exporting import export as write

    with _wrong_calls_told():
        report = write(path, out, to, drop)
    console = Console()
    for remark in (*report.assumed, *report.dropped):
        console.print(f"- {remark}", soft_wrap=True, highlight=False, markup=False)
    console.print(
        f"{report.transitions:,} transitions of {report.episodes:,} episodes are in {out}",
        soft_wrap=True,
        highlight=False,
    )
    return 0


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and exits with its code.

    Args:
        arguments: Those after the program's name; those of the process by default.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if "--version" in arguments:
        Console().print(f"tmrl-memory {__version__}", highlight=False)
        sys.exit(0)
    try:
        with _wrong_calls_told():
            _check_import_name()
        sys.exit(_dispatch(arguments))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _dispatch(arguments: Sequence[str]) -> int:
    return tyro.extras.subcommand_cli_from_dict(
        {"train": train, "eval": evaluate, "record": record, "export": export},
        prog="tmrl",
        description="Replay memory for reinforcement learning. `tmrl --version` prints the version.",
        args=arguments or ["--help"],
    )


def _check_import_name() -> None:
    try:
        other = metadata.version("tmrl")
    except metadata.PackageNotFoundError:
        return
    raise ValueError(
        f"the distribution tmrl {other} is installed beside tmrl-memory, and both are imported as `tmrl`; "
        "remedy: pip uninstall --yes tmrl && pip install --force-reinstall --no-deps tmrl-memory"
    )


@contextmanager
def _wrong_calls_told() -> Generator[None]:
    """Turns what a wrong call raises, before any work began, into a message and exit code 2."""
    try:
        yield
    except (ValueError, FileExistsError, FileNotFoundError) as error:
        _tell(str(error))
        sys.exit(WRONG_CALL)


def _tell(message: str) -> None:
    Console(stderr=True).print(f"tmrl: {message}", soft_wrap=True, highlight=False, markup=False)


def _figure(returns: Sequence[float]) -> str:
    from statistics import fmean, pstdev

    return f"mean return of {len(returns)} test episodes: {fmean(returns):.1f} +- {pstdev(returns):.1f}"
