"""Histories on the command line are parsed, and nothing of them is run."""

import pytest

from tmrl.memory import ActionBuffer, History, Latest, Quantized, Stacked
from tmrl.runs.declared import history_from_text


@pytest.mark.parametrize(
    "spec",
    [
        Stacked(4),
        (Latest(), Stacked(4), ActionBuffer(2)),
        {"eye": Stacked(3, Quantized("int8", 100.0, "float64")), "arms": (Latest(), Quantized())},
    ],
)
def test_a_history_is_read_as_python_prints_it(spec: object) -> None:
    assert history_from_text(f" {spec!r}\n") == History(spec)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "invalid syntax"),
        ("Stacked(4", "was never closed"),
        ("Stacked(0)", "k must be at least 1, got 0"),
        ("Stacked()", "missing 1 required positional argument"),
        ("(ActionBuffer(2), Latest())", "must be the last entry of the outermost tuple"),
        ("4", "spec must be a rule"),
        ("Shell('x')", r"Shell\('x'\) is no rule and no plain value"),
        ("Stacked(k=__import__('os').getpid())", r"__import__\('os'\).getpid\(\) is no rule"),
        ("{**{}}", "is no rule and no plain value"),
        ("Stacked(**{'k': 4})", "unexpected keyword argument 'None'"),
        ("(" * 300 + ")" * 300, "too many nested parentheses|too complex|maximum recursion"),
    ],
)
def test_what_is_no_history_is_refused_and_never_run(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f'(?s)--history must be rules .* such as "Stacked.*{reason}'):
        history_from_text(text)
