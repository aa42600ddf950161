"""The report of a server as a table."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tmrl.inspection.words import size
from tmrl.networking.report import ServerReport, TrainerReport, WorkerReport


def print_status(console: Console, address: str, report: ServerReport) -> None:
    """Prints a report.

    Args:
        console: Where to.
        address: Of the server.
        report: What it said.
    """
    spool = report.spool
    where = "on disk" if spool.is_durable else "in memory"
    head = (
        f"server {address}: {spool.parcels:,} parcels wait {where}, {size(spool.bytes)} of "
        f"{size(spool.max_bytes)}; policy {report.policy_version}"
    )
    console.print(Text(head), soft_wrap=True)
    console.print(f"trainer: {_trainer(report.trainer)}", highlight=False)
    table = Table("worker", "from", "seen", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("samples", "/s", "waiting", "policy", "dropped", "twice", "lost"):
        table.add_column(name, justify="right", no_wrap=True)
    for worker in report.workers:
        # As texts, in which rich finds neither markup nor emoji: what peers call themselves is theirs.
        table.add_row(*map(Text, _row(worker)))
    if report.workers:
        console.print(table)
    else:
        console.print("no worker has come yet")


def _row(worker: WorkerReport) -> list[str]:
    return [
        worker.name,
        "away" if worker.address is None else worker.address.rpartition(":")[0],
        _ago(worker.seen_s),
        f"{worker.samples:,}",
        f"{worker.samples_per_s:,.0f}",
        f"{worker.backlog:,}",
        str(worker.policy_version),
        f"{worker.skipped:,}",
        f"{worker.duplicates:,}",
        f"{worker.lost:,}",
    ]


def _trainer(trainer: TrainerReport) -> str:
    if trainer.is_connected:
        return "connected"
    return "has not come yet" if trainer.seen_s is None else f"away, seen {_ago(trainer.seen_s)}"


def _ago(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s ago"
    return f"{seconds / 60:.0f} min ago" if seconds < 3600 else f"{seconds / 3600:.0f} h ago"
