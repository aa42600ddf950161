"""Contents as tables on a terminal, readable at 80 columns and without colours."""

import math
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tmrl.inspection.contents import Contents, Share, Spread
from tmrl.inspection.facts import Facts
from tmrl.inspection.words import DASH, counted, duration, number, printable, share, size
from tmrl.memory.stats import SOURCE, WORKER, Counts
from tmrl.schema import Leaf, Schema

MAX_LINES = 24
"""Of a table of workers, sources or leaves."""
LEAF_COLUMNS = ("in a row", "dtype", "bytes", "min", "max", "mean", "not finite")
SHARE_COLUMNS = ("rows", "share", "episodes", "mean return")
LAST_ROW = "last row"
COUNT_COLUMNS = ("since it was made", "appended", "evicted", "refused", "sent twice", "lost")

_ORDER = {part: place for place, part in enumerate(("obs", "act", "rew", "terminated", "truncated", "info"))}


def print_contents(console: Console, contents: Contents, facts: Facts) -> None:
    """Prints what is in a dataset."""
    console.print(Text(title(contents, facts), "bold"), soft_wrap=True)
    tables = [_summary(contents, facts), _leaves(contents)]
    if contents.n_episodes:
        tables.append(_shares("worker", contents.workers, contents, facts))
        tables.append(_shares("source", contents.sources, contents, facts))
    if facts.tally.counts:
        tables.append(_counts(facts))
    for table in tables:
        console.print()
        console.print(table)
    for sentence in contents.about.assumptions:
        console.print(Text(f"\nnote: {printable(sentence)}"), soft_wrap=True)


def title(contents: Contents, facts: Facts) -> str:
    """What this is, in one line."""
    environment = contents.about.environment
    of = f" of {printable(environment)}" if environment else ""
    return f"{printable(facts.name)}: {contents.about.kind}{of}"


def summary(contents: Contents, facts: Facts) -> dict[str, str]:
    """The figures of the whole, by name."""
    row_bytes = contents.schema.row_dtype.itemsize
    capacity = f", room for {facts.capacity:,}" if facts.capacity is not None else ""
    on_disk = f", {size(facts.disk_bytes)} on disk" if facts.disk_bytes else ""
    figures = {
        "rows": f"{contents.n_rows:,} of {size(row_bytes)} each",
        "bytes": f"{size(contents.n_bytes)} of rows{on_disk}",
        "transitions": f"{contents.n_transitions:,}{capacity}",
        "episodes": episodes(contents),
        "return": spread(Spread.of(contents.returns[contents.is_whole])),
        "length": spread(Spread.of(contents.lengths[contents.is_whole])),
        "reward": reward(contents),
    }
    if contents.schema.history is not None:
        figures["history"] = printable(str(contents.schema.history.spec))
    if facts.tally.counts:
        total = facts.tally.total()
        figures["gaps"] = f"{counted(total.gaps, 'step')} lost, {total.duplicates:,} sent twice"
    oldest = DASH if facts.row_ids is None else age(facts, facts.row_ids.start)
    if oldest != DASH:
        figures["oldest row"] = f"{oldest} before the newest"
    return figures


def episodes(contents: Contents) -> str:
    """How many episodes there are, and of which kind."""
    n_cut = int((~contents.is_ended).sum())
    n_begun_before = int((~contents.begins).sum())
    parts = [
        f"{int(contents.is_terminated.sum()):,} terminated",
        f"{int((contents.is_truncated & ~contents.is_terminated).sum()):,} truncated",
        *([f"{n_cut:,} without an end"] if n_cut else []),
        *([f"{n_begun_before:,} without a start"] if n_begun_before else []),
    ]
    return f"{contents.n_episodes:,}: {', '.join(parts)}" if contents.n_episodes else "0"


def spread(values: Spread) -> str:
    """A spread in one line; a dash of nothing."""
    if not values.n:
        return DASH
    mean, std, median = number(values.mean), number(values.std), number(values.median)
    return f"{mean} ± {std}, median {median}, from {number(values.low)} to {number(values.high)}"


def reward(contents: Contents) -> str:
    """The rewards of transitions in one line; a dash of nothing."""
    extent = contents.reward
    mean, std, low, high = (float(each[0]) for each in (extent.mean, extent.std, extent.low, extent.high))
    if math.isnan(mean):
        return DASH
    return f"{number(mean)} ± {number(std)}, from {number(low)} to {number(high)}"


def age(facts: Facts, row_id: int) -> str:
    """How long before the newest row another came, in rows and, if it was noted, in time."""
    if row_id < 0 or facts.row_ids is None:
        return DASH
    rows, age_s = counted(facts.newest_id - row_id, "row"), facts.age_s(row_id)
    return rows if math.isnan(age_s) else f"{rows}, {duration(age_s)}"


def leaf_figures(contents: Contents, name: str) -> tuple[str, str, str, str]:
    """Minimum, maximum, mean, and how many numbers of a leaf are not finite."""
    values = contents.ranges.get(name)
    if values is None:
        return DASH, DASH, DASH, DASH
    n_odd = values.n_nan + values.n_inf
    return number(values.low), number(values.high), number(values.mean), f"{n_odd:,}" if n_odd else DASH


def leaf_names(leaf: Leaf) -> tuple[str, str]:
    """Name and layout of a leaf, the latter as in `uint8[84x84]`."""
    shape = f"[{'x'.join(map(str, leaf.shape))}]" if leaf.shape else ""
    return printable(leaf.name), f"{leaf.dtype_name}{shape}"


def ordered_leaves(schema: Schema) -> list[Leaf]:
    """The leaves in the order in which one thinks of them, not in that of the row."""
    return sorted(schema.leaves, key=lambda leaf: _ORDER.get(leaf.name.split("/")[0], len(_ORDER)))


def share_figures(each: Share, contents: Contents) -> tuple[str, ...]:
    """What a worker or a source contributed, a figure for each of `SHARE_COLUMNS` after its name."""
    rows = f"{each.rows:,}", share(each.rows, contents.n_rows)
    return printable(each.name), *rows, f"{each.episodes:,}", number(each.mean_return)


def last_row(facts: Facts, worker: str) -> str:
    """How long before the newest row the newest one of a worker came."""
    found = age(facts, facts.newest.get(worker, -1))
    return found if found == DASH else f"{found} ago"


def count_figures(facts: Facts) -> list[tuple[str, ...]]:
    """What happened to the samples of each worker and each source, a figure for each of `COUNT_COLUMNS`."""
    lines = [line for part in (WORKER, SOURCE) for line in list(facts.tally.by(part).items())[:MAX_LINES]]
    return [(printable(name), *(f"{n:,}" for n in _in_order(counts))) for name, counts in lines]


def _in_order(counts: Counts) -> tuple[int, ...]:
    return counts.appended, counts.evicted, counts.refused, counts.duplicates, counts.gaps


def _summary(contents: Contents, facts: Facts) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, figure in summary(contents, facts).items():
        table.add_row(f"  {name}", figure)
    return table


def _leaves(contents: Contents) -> Table:
    lines = [
        (*leaf_names(leaf), f"{leaf.n_bytes:,}", *leaf_figures(contents, leaf.name))
        for leaf in ordered_leaves(contents.schema)[:MAX_LINES]
    ]
    names = LEAF_COLUMNS if any(line[-1] != DASH for line in lines) else LEAF_COLUMNS[:-1]
    lines = [line[: len(names)] for line in lines]
    return _table(names, lines, len(contents.schema.leaves), text_columns=2)


def _shares(what: str, shares: list[Share], contents: Contents, facts: Facts) -> Table:
    is_aged = what == "worker" and bool(facts.newest)
    lines = [
        (*share_figures(each, contents), *([last_row(facts, each.name)] if is_aged else []))
        for each in shares[:MAX_LINES]
    ]
    return _table((what, *SHARE_COLUMNS, *([LAST_ROW] if is_aged else [])), lines, len(shares))


def _counts(facts: Facts) -> Table:
    lines = count_figures(facts)
    return _table(COUNT_COLUMNS, lines, len(lines))


def _table(names: Sequence[str], lines: Iterable[Sequence[str]], n: int, text_columns: int = 1) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=True, padding=(0, 1), show_edge=False)
    for place, name in enumerate(names):
        is_text = place < text_columns
        table.add_column(
            name,
            justify="left" if is_text else "right",
            overflow="fold",
            no_wrap=not is_text and name != LAST_ROW,
        )
    for line in lines:
        table.add_row(*map(Text, line))
    if n > len(table.rows):
        table.add_row(Text(f"and {n - len(table.rows):,} more"))
    return table
