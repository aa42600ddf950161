"""Declarations that are written as in Python, and never run: `--history "(Latest(), Stacked(4))"`.

The text is the one that a program would hold, and the one that messages print. It is parsed, and only the
names of rules, tuples, dicts and plain values are admitted.
"""

import ast
from typing import Any

from tmrl.history import History
from tmrl.history_rules import ActionBuffer, Latest, Quantized, Stacked

_RULES: dict[str, Any] = {kind.__name__: kind for kind in (Latest, Stacked, ActionBuffer, Quantized)}


def history_from_text(text: str) -> History:
    """The history that a text declares, such as `Stacked(4)` or `{"lidar": Stacked(4), "speed": Latest()}`.

    Raises:
        ValueError: It declares none; the message says why.
    """
    try:
        return History(_value(ast.parse(text.strip(), mode="eval").body))
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(
            f'--history must be rules ({", ".join(_RULES)}), written as in Python, such as "Stacked(4)" or '
            f'"(Latest(), Stacked(4), ActionBuffer(2))", got {text!r}: {error}'
        ) from error


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _RULES:
        named = {str(keyword.arg): _value(keyword.value) for keyword in node.keywords}
        return _RULES[node.func.id](*map(_value, node.args), **named)
    if isinstance(node, ast.Tuple):
        return tuple(map(_value, node.elts))
    if isinstance(node, ast.Dict) and None not in node.keys:  # None stands for **
        keys = [ast.literal_eval(key) for key in node.keys if key is not None]
        return dict(zip(keys, map(_value, node.values), strict=True))
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ValueError(f"{ast.unparse(node)} is no rule and no plain value") from None
