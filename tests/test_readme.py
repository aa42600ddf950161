"""What the README promises: its program runs, its links lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
LINKS = re.findall(r"\]\(([^)#]+)", README)


def test_the_program_fills_a_memory_and_draws_a_batch(tmp_path: Path) -> None:
    (program,) = PROGRAMS
    program += "print(len(memory), *prev_obs.shape, *rew.shape, terminated.sum().item())\n"
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["1000", "256", "3", "256", "0.0"]


def test_the_program_is_short() -> None:
    (program,) = PROGRAMS
    assert len([line for line in program.splitlines() if line]) <= 17


@pytest.mark.parametrize("link", LINKS)
def test_the_link_leads_to_a_file(link: str) -> None:
    assert link.startswith("https://") or (ROOT / link).exists()
