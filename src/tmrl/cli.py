"""The command line: `tmrl train`, `tmrl eval`. Thin: the work is done in `tmrl.runs`; nobody imports it.

Exit codes: 0 done, 1 the target was not reached, 2 a wrong call, 130 interrupted. A wrong call is told in a
short message with the remedy. Heavy libraries are loaded by the command that needs them.
"""

import sys
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Annotated, NoReturn

import tyro
from rich.console import Console

from tmrl import __version__
from tmrl.runs.settings import TrainSettings

WRONG_CALL = 2
INTERRUPTED = 130


def _train(settings: TrainSettings, defaults: TrainSettings) -> int:
    import torch

    from tmrl.runs.folder import RunFolder, check_name_is_free
    from tmrl.runs.session import Session, resumed_session

    console = Console()
    with ExitStack() as claims:
        with _wrong_calls_told():
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

    from tmrl.agents import SquashedGaussianActor
    from tmrl.runs.folder import RunFolder, read_json
    from tmrl.runs.session import make_env, run_tests

    with _wrong_calls_told():
        if episodes < 1 or seed < 0:
            raise ValueError(
                f"--episodes must be at least 1 and --seed at least 0, got {episodes} and {seed}"
            )
        folder = RunFolder.open(run)
        env_cls = partial(make_env, str(read_json(folder.config).get("env")))
        env = env_cls()
        actor = SquashedGaussianActor(env.observation_space, env.action_space)
        env.close()
        actor.load(folder.policy, "cpu")
    returns = run_tests(env_cls, actor, episodes, seed)
    console = Console()
    for episode, episode_return in enumerate(returns):
        console.print(f"episode {episode}: {episode_return:.1f}", highlight=False)
    console.print(_figure(returns), highlight=False)
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
            defaults = _defaults(arguments)
        sys.exit(_dispatch(arguments, defaults))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _dispatch(arguments: Sequence[str], defaults: TrainSettings) -> int:
    def train(settings: Annotated[TrainSettings, tyro.conf.arg(name="")] = defaults) -> int:
        """Train a soft actor-critic agent and leave its policy, curve and summary in runs/<name>/."""
        return _train(settings, defaults)

    return tyro.extras.subcommand_cli_from_dict(
        {"train": train, "eval": evaluate},
        prog="tmrl",
        description="Replay memory for reinforcement learning. `tmrl --version` prints the version.",
        args=arguments or ["--help"],
    )


def _defaults(arguments: Sequence[str]) -> TrainSettings:
    """The settings that flags replace: those of the run that --resume names, if it does."""
    given = [argument.partition("=") for argument in arguments]
    flags = [i for i, (flag, _, _) in enumerate(given) if flag == "--resume"]
    if not flags or arguments[0] != "train":
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
