"""The page is one well-formed file that needs nothing else, whatever the data are called and however many."""

import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from recorded import Listed, episode_of, schema_of
from tmrl.datasets.dataset import About
from tmrl.inspection.contents import read_contents
from tmrl.inspection.facts import Facts
from tmrl.inspection.film import MAX_IMAGES, strips
from tmrl.inspection.page import MAX_FIGURES, MAX_LINES, page
from tmrl.inspection.svg import Axis

VOID = {"meta", "img", "br", "!doctype"}
FACTS = Facts("mine", 1234, datetime(2026, 1, 2, 3, 4, tzinfo=UTC))
AGED = Facts(
    "mine",
    0,
    FACTS.changed_at,
    row_ids=range(40),
    newest={"ann": 39},
    times=np.array([[0, 0.0], [9, 7300.0]]),
)


class Walk(HTMLParser):
    """Checks that every element is closed, and collects what refers to something, and the words."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.references: list[str] = []
        self.words: list[str] = []
        self.feed(document)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.references += [value for name, value in attrs if name in {"src", "href", "srcset", "action"}]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())


def page_of(dataset: Listed, facts: Facts = FACTS) -> tuple[str, Walk]:
    """The page of a dataset, checked for what holds of every page."""
    document = page(read_contents(dataset), facts, strips(dataset))
    assert len(document.encode()) < 5_000_000
    walk = Walk(document)
    assert "script" not in walk.tags
    assert "link" not in walk.tags
    assert [
        reference for reference in walk.references if not reference.startswith("data:image/png;base64,")
    ] == []
    assert "url(" not in document
    assert "@import" not in document
    for svg in re.findall(r"<svg.*?</svg>", document, re.DOTALL):
        element = ET.fromstring(svg)
        assert {child.tag.split("}")[1] for child in element} >= {"title", "desc"}
        assert not re.search(r"nan|inf", svg)
    assert document.count("<svg") == walk.tags.count("svg")
    assert document.count("<figure") == document.count("<figcaption")
    return document, walk


def dataset_of(n: int, obs: Any = 0.0, act: Any = np.zeros(2), n_rows: int = 6, **names: Any) -> Listed:  # noqa: B008
    schema, rng = schema_of(obs, act), np.random.default_rng(0)
    return Listed(schema, [episode_of(schema, n_rows, rng, truncated=True, **names) for _ in range(n)])


@pytest.mark.parametrize("n", [0, 1, 2, 30])
@pytest.mark.parametrize("n_rows", [1, 2, 9])
def test_any_number_of_rows_makes_a_page(n: int, n_rows: int) -> None:
    _, walk = page_of(dataset_of(n, n_rows=n_rows), AGED)
    assert walk.words.count(f"{n:,}") >= 1


def test_the_figures_are_there() -> None:
    document, walk = page_of(dataset_of(8), AGED)
    headings = [
        "Returns",
        "Episode lengths",
        "Rewards",
        "Ages",
        "Action: act",
        "Who collected it",
        "What a row holds",
    ]
    assert [heading for heading in headings if heading not in walk.words] == []
    assert document.count('class="bar"') > 50
    assert "39 rows, 2.03 h ago" not in walk.words
    assert "0 rows, 0 s ago" in walk.words
    assert "h before the newest row" in walk.words


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=y>',
    "a\x00\x1b[31mb\ud800",
    "&amp;<b>'",
    "x" * 500,
]


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_are_text(name: str) -> None:
    key = name.replace("/", "|")
    image = np.zeros((9, 9), np.uint8)
    dataset = dataset_of(3, {key: image}, {key: np.zeros(2)}, worker=name, source=name)
    dataset.about = About("native", name, assumptions=(name,))
    _, walk = page_of(dataset, Facts(name, 0, FACTS.changed_at))
    shown = re.sub("[\x00-\x1f\ud800]", "\N{REPLACEMENT CHARACTER}", name)
    assert sum(shown in words for words in walk.words) >= 4
    assert walk.tags.count("img") == 3 * 6


def test_a_hundred_thousand_short_episodes_make_a_small_page() -> None:
    schema, rng = schema_of(0.0), np.random.default_rng(0)
    episode = episode_of(schema, 3, rng, truncated=True)
    document, walk = page_of(Listed(schema, [episode] * 100_000))
    assert len(document) < 100_000
    assert "200,000" in walk.words
    assert "Mean, and band from lowest to highest, of each 400 whole episodes." in walk.words


def test_many_images_workers_and_actions_are_bounded_and_what_is_left_out_is_said() -> None:
    noise = np.zeros((200, 200, 3), np.uint8)
    obs = {f"eye{i}": noise for i in range(5)}
    dataset = dataset_of(3, obs, {f"joint{i}": np.float32(0) for i in range(30)}, n_rows=20)
    for episode in dataset.list:
        for name in obs:
            episode.rows[f"obs/{name}"] = np.random.default_rng(0).integers(0, 256, (20, 200, 200, 3))
    schema = schema_of(0.0)
    _, walk = page_of(dataset)
    assert walk.tags.count("img") == MAX_IMAGES * 3 * 8
    assert "2 more images not shown." in walk.words
    assert f"{33 - MAX_FIGURES} more figures not shown." in walk.words
    many = [episode_of(schema, 2, np.random.default_rng(0), f"w{i}") for i in range(MAX_LINES + 7)]
    assert "7 more lines not shown." in page_of(Listed(schema, many))[1].words


def test_large_actions_are_summarised() -> None:
    _, walk = page_of(dataset_of(5, 0.0, np.zeros(200)))
    assert (
        "All 200 components together; and each: its mean, and a band from its lowest to its highest."
        in walk.words
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.7e308, -1.7e308, 5e-324, 1e-30, 1e15])
def test_odd_numbers_make_a_page(value: float) -> None:
    dataset = dataset_of(4, np.zeros(3), np.zeros(2))
    for episode in dataset.list[:2]:
        for name in ("obs", "act"):
            episode.rows[name][3] = value
        with np.errstate(over="ignore"):
            episode.rows["rew"][3] = value
    page_of(dataset)


def test_discrete_actions_have_a_bar_each() -> None:
    dataset = dataset_of(3, 0.0, np.int64(0))
    for episode in dataset.list:
        episode.rows["act"] = [0, 1, 2, 2, 4, 4]
    _, walk = page_of(dataset)
    assert {"0: 0", "1: 3", "2: 6", "4: 6"} - set(walk.words) == {"0: 0"}


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0, 1, ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (-1600, 0, ["-1,500", "-1,000", "-500", "0"]),
        (0, 4e6, ["0", "1M", "2M", "3M", "4M"]),
        (200, 200, ["180", "190", "200", "210", "220"]),
        (0, 3e-7, ["0", "5e-08", "1e-07", "1.5e-07", "2e-07", "2.5e-07", "3e-07"]),
    ],
)
def test_axes_have_round_numbers(low: float, high: float, labels: list[str]) -> None:
    assert list(Axis.of(low, high).ticks.values()) == labels
