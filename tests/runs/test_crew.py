"""The crew: processes of a run, which are heard, started again, and ended."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from networking.numbered import until
from tmrl.errors import CrewError
from tmrl.runs import crew
from tmrl.runs.crew import Crew

UNTIL_STDIN_CLOSES = "import sys; sys.stdin.read()"


@pytest.fixture
def programs(monkeypatch):
    """Runs programs of a test's own instead of `tmrl` commands: the first argument is the program."""
    processes = []
    popen = subprocess.Popen

    def started(command, **options):
        processes.append(popen([sys.executable, "-c", *command[3:]], **options))
        return processes[-1]

    monkeypatch.setattr(crew.subprocess, "Popen", started)
    monkeypatch.setattr(crew, "RESTART_PAUSE_S", 0.01)
    yield processes
    for process in processes:
        assert process.poll() is not None


def gave_up(members):
    until(lambda: members.failure is not None)
    with pytest.raises(CrewError) as caught:
        members.check()
    return str(caught.value)


def test_processes_end_when_the_crew_is_closed(programs):
    with Crew([[UNTIL_STDIN_CLOSES], [UNTIL_STDIN_CLOSES]]) as members:
        members.check()
        assert [process.poll() for process in programs] == [None, None]
    assert [process.poll() for process in programs] == [0, 0]


def test_a_process_that_has_much_to_say_is_not_stopped_by_its_pipe(programs, tmp_path, caplog):
    file = tmp_path / "done"
    talk = r"import sys; print('word ' * 40 + '\n' + 'x\n' * 50_000, file=sys.stderr)"
    with Crew([[f"{talk}; open({str(file)!r}, 'w').close(); {UNTIL_STDIN_CLOSES}"]]):
        until(file.exists)
        until(lambda: "word word" in caplog.text)
    assert programs[0].poll() == 0


def test_a_process_that_fails_is_started_again_and_three_failures_are_too_many(programs, caplog):
    with Crew([["import sys; sys.exit('tmrl: out of paper')"]]) as members:
        assert gave_up(members).endswith(" failed with 1: out of paper; it failed 3 times in a row")
    assert len(programs) == 3
    assert "failed with 1: out of paper; it is started again" in caplog.text


def test_a_failure_that_passes_leaves_the_others_alone(programs, tmp_path):
    file = Path(tmp_path / "was here")
    once = f"import sys, os; f = {str(file)!r}; os.path.exists(f) or sys.exit(open(f, 'w').write('') or 1)"
    with Crew([[f"{once}; {UNTIL_STDIN_CLOSES}"], [UNTIL_STDIN_CLOSES]]) as members:
        until(lambda: len(programs) == 3)
        time.sleep(0.2)
        members.check()
        assert [process.poll() for process in programs] == [1, None, None]


def test_a_wrong_call_is_not_tried_again(programs):
    with Crew([["import sys; print('tmrl: --port must be', file=sys.stderr); sys.exit(2)"]]) as members:
        assert gave_up(members).endswith(" failed with 2: --port must be")
    assert len(programs) == 1


def test_a_process_that_does_not_end_is_killed(programs, monkeypatch):
    monkeypatch.setattr(crew, "END_S", 0.1)
    with Crew([["import time; time.sleep(60)"]]):
        pass
    assert programs[0].poll() == -9
