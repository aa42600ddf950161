"""What the terminal shows, at 80 columns."""

import io
from datetime import UTC, datetime

import numpy as np
import pytest
from rich.console import Console

from recorded import Listed, episode_of, schema_of
from tmrl.datasets.dataset import About
from tmrl.inspection.contents import read_contents
from tmrl.inspection.facts import Facts
from tmrl.inspection.table import MAX_LINES, print_contents
from tmrl.inspection.words import duration, number, share, size
from tmrl.memory import History, Stacked
from tmrl.memory.stats import Tally
from tmrl.schema import Schema

NOW = datetime(2026, 1, 2, tzinfo=UTC)
EXPECTED = """\
arm: snapshot of Reach-v0

  rows         40 of 1.6 kB each
  bytes        64.6 kB of rows, 70.0 kB on disk
  transitions  34, room for 1,000
  episodes     6: 2 terminated, 2 truncated, 2 without an end, 1 without a start
  return       5.25 ± 2.046, median 6, from 2 to 7
  length       5.25 ± 2.046, median 6, from 2 to 7
  reward       1 ± 0, from 1 to 1
  gaps         3 steps lost, 1 sent twice
  oldest row   39 rows, 2 h before the newest

 in a row       dtype          bytes   min    max    mean   not finite
───────────────────────────────────────────────────────────────────────
 obs/velocity   float16[2]         4     0   0.75   0.373            2
 obs/eye        uint8[40x40]   1,600     7      7       7            -
 act            int32              4     0      1   0.559            -
 rew            float32            4     1      1       1            -
 terminated     bool               1     0      1    0.05            -
 truncated      bool               1     0      1    0.05            -

 worker   rows    share   episodes   mean return             last row
──────────────────────────────────────────────────────────────────────
 bob        21   52.5 %          3             6   7 rows, 90 min ago
 ann        19   47.5 %          3           4.5      0 rows, 0 s ago

 source   rows    share   episodes   mean return
─────────────────────────────────────────────────
 online     37   92.5 %          5         6.333
 demo        3    7.5 %          1             2

 since it was made   appended   evicted   refused   sent twice   lost
──────────────────────────────────────────────────────────────────────
 ann                       23         2         5            1      0
 bob                       19         0         0            0      3
 demo                       3         0         0            0      0
 online                    39         2         5            1      3

note: Resets were made up.
"""


def arm() -> tuple[Listed, Facts]:
    schema = schema_of(
        {"eye": np.zeros((40, 40), np.uint8), "velocity": np.zeros(2, np.float16)}, np.int32(0)
    )
    rng = np.random.default_rng(0)
    episodes = []
    for i, n in enumerate((3, 6, 8, 7, 8, 8)):
        worker, source = ("bob", "online") if i % 2 else ("ann", "demo" if i == 0 else "online")
        ended = {"terminated": i in {0, 1}, "truncated": i in {2, 5}, "begins": i != 4}
        episode = episode_of(schema, n, rng, worker, source, **ended)
        episode.rows["obs/eye"], episode.rows["rew"] = 7, 1
        episode.rows["obs/velocity"] = np.linspace(0, 0.75, 2 * n).reshape(n, 2).round(2)
        episode.rows["act"] = np.arange(n) % 2
        episodes.append(episode)
    episodes[1].rows["obs/velocity"][3] = np.nan, np.inf
    tally = Tally()
    tally.restore(
        [["ann", "demo", 3, 0, 0, 0, 0], ["ann", "online", 20, 2, 5, 1, 0], ["bob", "online", 19, 0, 0, 0, 3]]
    )
    times = np.array([[0, 0.0], [30, 1800.0], [35, 7200.0]])
    facts = Facts("arm", 70_000, NOW, 1000, range(2, 42), tally, {"ann": 41, "bob": 34}, times)
    return Listed(
        schema, episodes, About("snapshot", "Reach-v0", assumptions=("Resets were made up.",))
    ), facts


def printed(dataset: Listed, facts: Facts) -> str:
    stream = io.StringIO()
    print_contents(Console(file=stream, width=80), read_contents(dataset), facts)
    return "".join(f"{line.rstrip()}\n" for line in stream.getvalue().splitlines())


def test_contents_of_a_memory_as_a_whole() -> None:
    assert printed(*arm()) == EXPECTED


def test_names_steer_nothing_and_are_never_markup() -> None:
    dataset = Listed(
        schema_of(0.0), [episode_of(schema_of(0.0), 2, np.random.default_rng(0), "[red]\x1b[31m")]
    )
    out = printed(dataset, Facts("[b]x\n", 0, NOW))
    assert "[red]\N{REPLACEMENT CHARACTER}[31m" in out
    assert out.startswith("[b]x\N{REPLACEMENT CHARACTER}: native\n")


def test_a_long_table_says_how_much_is_left_out() -> None:
    schema, rng = schema_of(0.0), np.random.default_rng(0)
    dataset = Listed(schema, [episode_of(schema, 2, rng, f"w{i}") for i in range(MAX_LINES + 8)])
    assert "and 8 more" in printed(dataset, Facts("x", 0, NOW))


def test_a_history_is_told() -> None:
    schema = schema_of(np.zeros(3))
    assert "history" not in printed(Listed(schema, []), Facts("x", 0, NOW))
    compressed = Schema(schema.obs, schema.act, history=History(Stacked(4)))
    assert "  history      Stacked(k=4, frames=Latest())\n" in printed(
        Listed(compressed, []), Facts("x", 0, NOW)
    )


@pytest.mark.parametrize("n_rows", [0, 1])
def test_nothing_is_told_with_dashes(n_rows: int) -> None:
    schema = schema_of(0.0)
    episodes = [episode_of(schema, 1, np.random.default_rng(0))] * n_rows
    out = printed(Listed(schema, episodes), Facts("x", 0, NOW))
    assert "  return       -\n" in out
    assert f"  episodes     {n_rows}" in out


@pytest.mark.parametrize("width", [20, 40])
def test_a_narrow_terminal_loses_no_rows(width: int) -> None:
    stream = io.StringIO()
    dataset, facts = arm()
    print_contents(Console(file=stream, width=width), read_contents(dataset), facts)
    assert max(map(len, stream.getvalue().splitlines()[2:])) <= width or width == 20


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (-1234.5678, "-1,235"),
        (0.00012345, "0.000123"),
        (1.5e-7, "1.5e-07"),
        (12345678, "12,345,678"),
        (2.5e12, "2.5e+12"),
        (float("nan"), "-"),
        (float("-inf"), "-inf"),
        (9.99999, "10"),
        (0.25, "0.25"),
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text


def test_sizes_times_and_shares_have_the_unit_that_suits() -> None:
    assert [size(n) for n in (0, 999, 1000, 123_456, 5e9, 1e16)] == [
        *("0 bytes", "999 bytes", "1.0 kB", "123 kB", "5.0 GB", "10000 TB")
    ]
    assert [duration(s) for s in (0, 90, 600, 7200, 200_000)] == ["0 s", "90 s", "10 min", "2 h", "2.31 d"]
    assert [share(*parts) for parts in ((1, 0), (1, 3), (1, 10_000))] == ["-", "33.3 %", "< 0.1 %"]
