"""Fixtures for the command line."""

from collections.abc import Callable

import pytest

from tmrl import cli


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command in this process: exit code, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            cli.main(list(map(str, arguments)))
        captured = capsys.readouterr()
        return caught.value.code, captured.out, captured.err  # type: ignore[return-value]

    return run


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty working directory; the number of torch's threads is put back."""
    # Not at the top: most tests need no torch, and some see to it that it is not imported.
    import torch

    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
