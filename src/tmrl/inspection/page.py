"""The page of `tmrl inspect --html`: one file that holds all it needs, without scripts, light or dark."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from tmrl import __version__
from tmrl.inspection import table
from tmrl.inspection.contents import Contents, Share, Spread
from tmrl.inspection.facts import Facts
from tmrl.inspection.figures import figure_html, figures
from tmrl.inspection.film import MAX_IMAGES, Strip, data_uri, image_leaves
from tmrl.inspection.svg import text
from tmrl.inspection.words import DASH, counted, number, size

MAX_FIGURES = 16
MAX_LINES = 100
"""Of a table."""


def page(contents: Contents, facts: Facts, strips: Sequence[Strip]) -> str:
    """The whole page.

    Args:
        contents: What is in the dataset.
        facts: What its files say beside.
        strips: Its film strips.
    """
    title = table.title(contents, facts)
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    sections = [
        _header(contents, facts),
        _key_figures(contents, facts),
        _figures(contents, facts),
        _films(contents, strips),
        _who(contents, facts),
        _section("What a row holds", _leaves(contents)),
        _footer(contents),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        + "\n".join(section for section in sections if section)
        + "\n</body>\n</html>\n"
    )


def _header(contents: Contents, facts: Facts) -> str:
    about = contents.about
    parts = [
        about.kind,
        *([about.environment] if about.environment else []),
        *([f"{size(facts.disk_bytes)} on disk"] if facts.disk_bytes else []),
        *([f"written {facts.changed_at:%Y-%m-%d %H:%M} UTC"] if facts.changed_at else []),
    ]
    return f"<header><h1>{text(facts.name)}</h1><p>{text(' · '.join(parts))}</p></header>"


def _key_figures(contents: Contents, facts: Facts) -> str:
    whole = contents.is_whole
    returns, lengths = Spread.of(contents.returns[whole]), Spread.of(contents.lengths[whole])
    total = facts.tally.total()
    room = f"room for {facts.capacity:,}" if facts.capacity is not None else counted(contents.n_rows, "row")
    cards = [
        ("Transitions", f"{contents.n_transitions:,}", room),
        ("Episodes", f"{contents.n_episodes:,}", f"{int(whole.sum()):,} whole"),
        ("Return", number(returns.mean), _range(returns)),
        ("Episode length", number(lengths.mean), _range(lengths)),
        (
            "Rows",
            size(contents.n_bytes),
            f"{contents.n_rows:,} of {size(contents.schema.row_dtype.itemsize)}",
        ),
    ]
    if facts.tally.counts:
        cards.append(
            ("Steps lost", f"{total.gaps:,}", f"{total.duplicates:,} sent twice, {total.refused:,} refused")
        )
    items = (
        f'<div class="card"><dt>{name}</dt><dd>{text(value)} <small>{text(note)}</small></dd></div>'
        for name, value, note in cards
    )
    return f'<dl class="key">{"".join(items)}</dl>'


def _range(values: Spread) -> str:
    if not values.n:
        return "no whole episode"
    return f"± {number(values.std)}, {number(values.low)} to {number(values.high)}"


def _figures(contents: Contents, facts: Facts) -> str:
    drawn = figures(contents, facts)
    if not drawn:
        return ""
    more = _more(len(drawn), MAX_FIGURES, "figure")
    content = "".join(map(figure_html, drawn[:MAX_FIGURES]))
    return f'<section><h2>Episodes, rewards, actions</h2><div class="figures">{content}</div>{more}</section>'


def _films(contents: Contents, strips: Sequence[Strip]) -> str:
    if not strips:
        return ""
    films = [_film(name, list(of_leaf)) for name, of_leaf in groupby(strips, lambda strip: strip.leaf)]
    more = _more(len(image_leaves(contents.schema)), MAX_IMAGES, "image")
    return _section("What was seen", "".join(films) + more)


def _film(name: str, strips: list[Strip]) -> str:
    rows = "".join(
        f"<p>Episode {strip.episode:,}, {counted(strip.length, 'step')}</p><ol>{_frames(name, strip)}</ol>"
        for strip in strips
    )
    caption = "<figcaption>The number under a frame is its step.</figcaption>"
    return f'<figure class="card strips"><h3>{text(name)}</h3>{rows}{caption}</figure>'


def _frames(name: str, strip: Strip) -> str:
    return "".join(
        f'<li><img src="{data_uri(frame)}" alt="{text(name)} at step {step}">{step:,}</li>'
        for step, frame in zip(strip.steps, strip.frames, strict=True)
    )


def _who(contents: Contents, facts: Facts) -> str:
    if not contents.n_episodes:
        return ""
    tables = [
        _shares("worker", contents.workers, contents, facts),
        _shares("source", contents.sources, contents, facts),
    ]
    if facts.tally.counts:
        lines = table.count_figures(facts)
        tables.append(_table(table.COUNT_COLUMNS, map(_escaped, lines), len(lines)))
    return _section("Who collected it", "".join(tables))


def _shares(what: str, shares: list[Share], contents: Contents, facts: Facts) -> str:
    is_aged = what == "worker" and bool(facts.newest)
    lines: list[list[str]] = []
    for each in shares[:MAX_LINES]:
        name, *figures_of = _escaped(table.share_figures(each, contents))
        part = each.rows / max(1, contents.n_rows)
        meter = f'<meter value="{part:.4f}">{part:.1%}</meter>'
        last = _escaped([table.last_row(facts, each.name)]) if is_aged else []
        lines.append([name, meter, *figures_of, *last])
    names = (what, "", *table.SHARE_COLUMNS, *([table.LAST_ROW] if is_aged else []))
    return _table(names, lines, len(shares), text_columns=2)


def _leaves(contents: Contents) -> str:
    leaves = table.ordered_leaves(contents.schema)
    lines = [
        [*table.leaf_names(leaf), f"{leaf.n_bytes:,}", *table.leaf_figures(contents, leaf.name)]
        for leaf in leaves[:MAX_LINES]
    ]
    names = table.LEAF_COLUMNS if any(line[-1] != DASH for line in lines) else table.LEAF_COLUMNS[:-1]
    return _table(names, (_escaped(line[: len(names)]) for line in lines), len(leaves), text_columns=2)


def _footer(contents: Contents) -> str:
    notes = "".join(f'<p class="note">{text(sentence)}</p>' for sentence in contents.about.assumptions)
    return f"<footer><p>tmrl-memory {__version__}, tmrl inspect</p>{notes}</footer>"


def _section(heading: str, content: str) -> str:
    return f"<section><h2>{heading}</h2>{content}</section>"


def _more(n: int, shown: int, what: str) -> str:
    return f'<p class="note">{counted(n - shown, "more " + what)} not shown.</p>' if n > shown else ""


def _escaped(line: Iterable[str]) -> list[str]:
    return list(map(text, line))


def _table(names: Sequence[str], lines: Iterable[Sequence[str]], n: int, text_columns: int = 1) -> str:
    """A table of cells that are HTML already."""

    def row(tag: str, cells: Sequence[str]) -> str:
        kinds = [' class="text"'] * text_columns + [""] * (len(cells) - text_columns)
        return "".join(f"<{tag}{kind}>{cell}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))

    body = [f"<tr>{row('td', line)}</tr>" for line in lines]
    return (
        f'<div class="card table"><table><thead><tr>{row("th", names)}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table>{_more(n, len(body), 'line')}</div>"
    )
