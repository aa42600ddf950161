"""Every example runs, in a process of its own and with warnings as errors."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
ENVIRONMENT = {**os.environ, "PYTHONWARNINGS": "error"}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_the_example_runs_and_says_something(example: Path, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, str(example), "--smoke"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        check=False,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    assert len(run.stdout.splitlines()) >= 2
    assert list(tmp_path.iterdir()) == [], "an example leaves no files behind"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_the_example_is_short_and_says_how_to_run_it(example: Path) -> None:
    text = example.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 150
    assert f"python examples/{example.name}" in text


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 5
