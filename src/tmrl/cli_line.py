"""The commands of the line: `tmrl server`, `worker`, `status`, `credentials`."""

import json
import logging
import time
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from tmrl.cli_telling import FAILED, INTERRUPTED, damage_told, say, tell, wrong_calls_told
from tmrl.runs.line_settings import Address, ServerSettings, StatusSettings, WorkerSettings


def server(settings: Annotated[ServerSettings, tyro.conf.arg(name="")]) -> int:
    """Take samples from workers, keep them for the trainer, and hand out its policies."""
    from tmrl.runs.serving import serve

    _log_warnings()
    with wrong_calls_told():
        serve(settings, Console())
    return 0


def worker(settings: Annotated[WorkerSettings, tyro.conf.arg(name="")]) -> int:
    """Act in an environment, send every sample to a server, and take its policies."""
    from tmrl.errors import TmrlError
    from tmrl.runs.serving import connected_worker, work

    _log_warnings()
    with wrong_calls_told():
        worker, line = connected_worker(settings)
    envs = f"{settings.num_envs} environments {settings.env}" if settings.num_envs > 1 else settings.env
    say(f"{worker.worker_id} acts in {envs}; Ctrl-C ends it")
    try:
        work(worker, line, settings)
    except TmrlError as error:
        tell(str(error))
        return FAILED
    return 0


def status(settings: Annotated[StatusSettings, tyro.conf.arg(name="")]) -> int:
    """Show who is connected to a server, how fast samples come, and what waits."""
    from tmrl.errors import LineLostError, ProtocolError, RefusedError
    from tmrl.networking.connecting import dialer_of
    from tmrl.networking.status import report_of
    from tmrl.runs.status_table import print_status

    with wrong_calls_told():
        settings.check()
        address = Address.read(settings.server)
        dialer = dialer_of(address.host, address.port, settings.credential)
    try:
        while True:
            report = report_of(dialer)
            if settings.json:
                print(json.dumps(report.to_json()))  # noqa: T201 - for programs
            else:
                print_status(Console(), dialer.address, report)
            if settings.watch_s is None:
                return 0
            time.sleep(settings.watch_s)
    except LineLostError as error:
        unless = ", and without --credentials" if settings.credential is None else ""
        tell(f"{error}; see whether `tmrl server` runs there{unless}")
        return FAILED
    except (RefusedError, ProtocolError) as error:
        tell(str(error))
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def _log_warnings() -> None:
    """What these processes have to say while they run goes to standard error."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")


def init_credentials(
    folder: tyro.conf.Positional[Path],
    host: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    port: int | None = None,
    days: int = 730,
    renew: bool = False,
) -> int:
    """Make an authority, a server's certificate and the trainer's file.

    Args:
        folder: A new folder, which only you can open.
        host: DNS name or IP address of the server; may be repeated, and clients are given the first.
        port: Port of the server; 55555 unless given.
        days: How long the certificates of the server and the trainer are valid.
        renew: Make these two anew, in a folder that has them; workers keep their files.
    """
    from tmrl.networking.addresses import DEFAULT_PORT
    from tmrl.networking.authority import Authority

    with wrong_calls_told(), damage_told():
        if renew:
            authority = Authority.open(folder).renew(host, port, days)
        else:
            authority = Authority.create(folder, host, DEFAULT_PORT if port is None else port, days)
    say(
        f"credentials of a server at {authority.hosts[0]}, port {authority.port}, are in {folder}; "
        f"the trainer's file is {folder / 'trainer.json'}; keep {folder / 'ca.key'} where nobody else gets it"
    )
    return 0


def add_worker(
    folder: tyro.conf.Positional[Path],
    name: tyro.conf.Positional[str],
    days: int = 730,
    renew: bool = False,
) -> int:
    """Make the file that one worker needs to reach the server.

    Args:
        folder: The folder that `tmrl credentials init` made.
        name: Name of the worker, such as robot-1.
        days: How long its certificate is valid.
        renew: Make a new file for a worker that exists; its old one stays valid until it expires.
    """
    from tmrl.networking.authority import Authority

    with wrong_calls_told(), damage_told():
        file = Authority.open(folder).add_worker(name, days, renew)
    say(f"{file} is all that {name} needs; copy it there, and let nobody else read it")
    return 0


def revoke_credentials(folder: tyro.conf.Positional[Path], name: tyro.conf.Positional[str]) -> int:
    """Shut a worker, or the trainer, out; a running server obeys within a second.

    Args:
        folder: The folder that `tmrl credentials init` made.
        name: Name of the worker, or trainer.
    """
    from tmrl.networking.authority import Authority

    with wrong_calls_told(), damage_told():
        n_revoked = Authority.open(folder).revoke(name)
    certificates = "certificate" if n_revoked == 1 else "certificates"
    say(
        f"{n_revoked} {certificates} of {name} revoked; "
        f"a server on another machine needs {folder / 'revoked.json'} anew"
    )
    return 0


def list_credentials(folder: tyro.conf.Positional[Path]) -> int:
    """List what was made: name, role, issued, expires, revoked, fingerprint.

    Args:
        folder: The folder that `tmrl credentials init` made.
    """
    from tmrl.networking.authority import Authority
    from tmrl.networking.issued import table_of

    with wrong_calls_told(), damage_told():
        lines = table_of(Authority.open(folder).records())
    for line in lines:
        say(line)
    return 0


def credentials(
    command: Annotated[
        Annotated[int, tyro.conf.subcommand("init", constructor=init_credentials)]
        | Annotated[int, tyro.conf.subcommand("worker", constructor=add_worker)]
        | Annotated[int, tyro.conf.subcommand("revoke", constructor=revoke_credentials)]
        | Annotated[int, tyro.conf.subcommand("list", constructor=list_credentials)],
        tyro.conf.arg(name=""),
    ],
) -> int:
    """Make, revoke and list what workers and the trainer prove themselves with."""
    return command
