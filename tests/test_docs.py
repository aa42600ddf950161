"""The documentation: its programs run, and its reference has every public name."""

import re
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from tmrl.runs.line_settings import ServerSettings, StatusSettings, WorkerSettings
from tmrl.runs.settings import RecordSettings, TrainSettings

DOCS = Path(__file__).parent.parent / "docs"
PROGRAM = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = sorted(page for page in DOCS.rglob("*.md") if PROGRAM.search(page.read_text(encoding="utf-8")))
MODULES = [
    "tmrl",
    "tmrl.actor",
    "tmrl.agents",
    "tmrl.datasets",
    "tmrl.errors",
    "tmrl.memory",
    "tmrl.networking",
    "tmrl.training",
    "tmrl.util",
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_blocks_of_a_page_are_one_program_that_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    try:
        program = "\n".join(PROGRAM.findall(page.read_text(encoding="utf-8")))
        exec(compile(program, page.name, "exec"), {"__name__": "__main__"})
    finally:
        torch.set_num_threads(threads)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_in_the_reference(module: str) -> None:
    reference = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "reference").iterdir())
    names = [name for name in import_module(module).__all__ if not name.startswith("__")]
    assert [name for name in names if not re.search(rf":: tmrl\.\S*\b{name}$", reference, re.MULTILINE)] == []


@pytest.mark.parametrize(
    "settings", [TrainSettings, RecordSettings, ServerSettings, WorkerSettings, StatusSettings]
)
def test_every_flag_is_in_the_reference(settings: Any) -> None:
    page = (DOCS / "reference" / "command-line.md").read_text(encoding="utf-8")
    (listed,) = re.findall(rf"autoclass:: \S*\.{settings.__name__}\n   :members: (.*)", page)
    assert sorted(listed.split(", ")) == sorted(field.name for field in fields(settings))


def test_there_are_programs() -> None:
    assert len(PAGES) >= 4
