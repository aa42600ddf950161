"""The command line: `tmrl train`, `eval`, `record`, `export`, `inspect`, `verify`, and those of the line.

Nobody imports it. It is thin: the work is done in `tmrl.runs`, `tmrl.inspection` and `tmrl.networking`.
Exit codes: 0 done, 1 the target was not reached, or the server, the data or the credentials cannot be used,
2 a wrong call, 130 interrupted. A wrong call is told in a short message with the remedy. Heavy libraries are
loaded by the command that needs them.
"""

import os
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import tyro
from rich.console import Console

from tmrl import __version__
from tmrl.cli_line import credentials, server, status, worker
from tmrl.cli_telling import (
    FAILED,
    INTERRUPTED,
    WRONG_CALL,
    damage_told,
    readers_may_leave,
    tell,
    wrong_calls_told,
)
from tmrl.runs.settings import RecordSettings, TrainSettings

if TYPE_CHECKING:
    from tmrl.datasets.dataset import Dataset


def _train(settings: TrainSettings, defaults: TrainSettings) -> int:
    import torch

    from tmrl.errors import BadSampleError, CrewError, RefusedError, StalledError
    from tmrl.runs.folder import RunFolder, check_name_is_free
    from tmrl.runs.session import Session, resumed_session

    console = Console()
    with ExitStack() as claims:
        with wrong_calls_told():
            settings.check()
            torch.set_num_threads(settings.threads)
            if settings.resume is None:
                if settings.name is not None:
                    check_name_is_free(settings.name)
                session = Session(settings)
                folder = RunFolder.create(settings.name, settings.env)
                claims.enter_context(folder.claim())
            else:
                settings.check_goes_on(defaults)
                folder = RunFolder.resume(settings.resume)
                claims.enter_context(folder.claim())
                session = resumed_session(settings, folder)
                done = session.training.total_updates
                console.print(
                    f"{folder.path} goes on after {done:,} updates", soft_wrap=True, highlight=False
                )
        try:
            outcome = session.run(folder, console)
        except (BadSampleError, CrewError, RefusedError, StalledError) as error:
            tell(str(error))
            return FAILED
    console.print(f"policy, curve and summary are in {folder.path}", soft_wrap=True, highlight=False)
    if outcome.returns is None:
        console.print("interrupted before the end")
        return INTERRUPTED
    if outcome.returns:
        console.print(_figure(outcome.returns), highlight=False)
    if outcome.is_on_target:
        return 0
    tell(
        f"the mean test return must be at least {settings.target:g}, got {outcome.mean:.1f}; "
        "train longer with --steps, or give another --seed or --target-return"
    )
    return FAILED


def evaluate(run: tyro.conf.Positional[Path], episodes: int = 10, seed: int = 0) -> int:
    """Test the policy that a run left, without exploration.

    Args:
        run: Folder of the run, such as runs/my-run.
        episodes: Episodes to test.
        seed: Seed of the environment.
    """
    from functools import partial

    from tmrl.frames import stacked_space
    from tmrl.runs.environments import make_env
    from tmrl.runs.record import load_policy
    from tmrl.runs.session import run_tests

    with wrong_calls_told():
        if episodes < 1 or seed < 0:
            raise ValueError(
                f"--episodes must be at least 1 and --seed at least 0, got {episodes} and {seed}"
            )
        policy = load_policy(run)
        env_cls = partial(make_env, policy.env, is_test=True)
        env = env_cls()
        actor = policy.make(stacked_space(env.observation_space, policy.frame_stack), env.action_space)
        env.close()
    returns = run_tests(env_cls, actor, episodes, seed, policy.frame_stack)
    console = Console()
    for episode, episode_return in enumerate(returns):
        console.print(f"episode {episode}: {episode_return:.1f}", highlight=False)
    console.print(_figure(returns), highlight=False)
    return 0


def inspect(path: tyro.conf.Positional[Path], html: Path | None = None) -> int:
    """Show what is in a memory, a checkpoint or a dataset.

    Args:
        path: Folder or file of the data.
        html: File to write a page with plots and film strips to.
    """
    from tmrl.inspection.contents import read_contents
    from tmrl.inspection.facts import read_facts
    from tmrl.inspection.table import print_contents

    with wrong_calls_told():
        if html is not None and not html.parent.is_dir():
            raise FileNotFoundError(f"--html must be a file in a folder that exists, got {html}")
    with damage_told():
        dataset = _open_dataset(path)
        facts = read_facts(path, dataset)
        with _progress(dataset.n_rows) as on_rows:
            contents = read_contents(dataset, on_rows)
        console = Console()
        print_contents(console, contents, facts)
        if html is not None:
            from tmrl.inspection.film import strips
            from tmrl.inspection.page import page
            from tmrl.inspection.words import size

            n_bytes = html.write_bytes(page(contents, facts, strips(dataset)).encode())
            console.print(
                f"\nthe page is {html}, {size(n_bytes)}", soft_wrap=True, highlight=False, markup=False
            )
    return 0


def verify(path: tyro.conf.Positional[Path]) -> int:
    """Compare every checksum of a memory, a checkpoint or a dataset with its bytes.

    Args:
        path: Folder or file of the data.
    """
    from tmrl.inspection.verdict import verify as verdict_of

    with damage_told():
        dataset = _open_dataset(path)
        errors = Console(stderr=True)
        with errors.status("reading every checksum") if errors.is_terminal else nullcontext():
            verdict = verdict_of(dataset)
        if not verdict.is_sound:
            tell(str(verdict))
            return FAILED
    Console().print(str(verdict), soft_wrap=True, highlight=False, markup=False)
    return 0


def record(settings: Annotated[RecordSettings, tyro.conf.arg(name="")]) -> int:
    """Record complete episodes of a policy as a dataset; Ctrl-C stops, and what is recorded stays."""
    from tmrl.runs.record import Recorder

    console = Console()
    with wrong_calls_told():
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

    with wrong_calls_told():
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
    if arguments is None:
        # A module named in --env may lie where the command was given, as it may for `python -m tmrl`.
        sys.path.append("")
    try:
        with readers_may_leave():
            code = _run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(code)


def _run(arguments: Sequence[str]) -> int:
    if "--version" in arguments:
        Console().print(f"tmrl-memory {__version__}", highlight=False)
        return 0
    with wrong_calls_told():
        _check_import_name()
        defaults = _defaults(arguments)
    # gRPC would add lines of its own to the messages.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    return _dispatch(arguments, defaults)


def _dispatch(arguments: Sequence[str], defaults: TrainSettings) -> int:
    def train(settings: Annotated[TrainSettings, tyro.conf.arg(name="")] = defaults) -> int:
        """Train an agent and leave its policy, curve and summary in runs/<name>/."""
        return _train(settings, defaults)

    def trainer(settings: Annotated[TrainSettings, tyro.conf.arg(name="")] = defaults) -> int:
        """Train as `train` does, from what the workers of a server send; by default one on this machine."""
        if not settings.is_fed_from_afar:
            settings = replace(settings, server="127.0.0.1")
        return _train(settings, defaults)

    return tyro.extras.subcommand_cli_from_dict(
        {
            "train": train,
            "eval": evaluate,
            "record": record,
            "export": export,
            "inspect": inspect,
            "verify": verify,
            "trainer": trainer,
            "server": server,
            "worker": worker,
            "status": status,
            "credentials": credentials,
        },
        prog="tmrl",
        description="Replay memory for reinforcement learning. `tmrl --version` prints the version.",
        args=arguments or ["--help"],
    )


def _defaults(arguments: Sequence[str]) -> TrainSettings:
    """The settings that flags replace: those of the run that --resume names, if it does."""
    given = [argument.partition("=") for argument in arguments]
    flags = [i for i, (flag, _, _) in enumerate(given) if flag == "--resume"]
    if not flags or arguments[0] not in {"train", "trainer"}:
        return TrainSettings()
    _, equals, value = given[flags[-1]]
    if not equals and len(arguments) <= flags[-1] + 1:
        return TrainSettings()  # tyro says what is missing
    from tmrl.runs.folder import RunFolder, read_json

    folder = RunFolder.resume(Path(value if equals else arguments[flags[-1] + 1]))
    return TrainSettings.from_config(read_json(folder.config), folder.path)


def _check_import_name() -> None:
    try:
        other = metadata.version("tmrl")
    except metadata.PackageNotFoundError:
        return
    raise ValueError(
        f"the distribution tmrl {other} is installed beside tmrl-memory, and both are imported as `tmrl`; "
        "remedy: pip uninstall --yes tmrl && pip install --force-reinstall --no-deps tmrl-memory"
    )


def _open_dataset(path: Path) -> "Dataset":
    from tmrl.datasets import open_dataset
    from tmrl.errors import DatasetError

    try:
        return open_dataset(path)
    except DatasetError as error:
        tell(str(error))
        sys.exit(FAILED if path.exists() else WRONG_CALL)


@contextmanager
def _progress(n_rows: int) -> Generator[Callable[[int], object]]:
    """A bar on the terminal while rows are read; nothing elsewhere."""
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("reading", total=n_rows)
        yield lambda n: progress.advance(task, n)


def _figure(returns: Sequence[float]) -> str:
    from statistics import fmean, pstdev

    return f"mean return of {len(returns)} test episodes: {fmean(returns):.1f} +- {pstdev(returns):.1f}"
