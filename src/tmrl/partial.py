"""`partial`: `functools.partial` that reaches into the defaults of what it configures."""

import functools
import inspect
from collections.abc import Callable
from typing import Any


def _default(*_args: Any, **_kwargs: Any) -> Any:
    raise TypeError(
        "a partial without a function stands for the default of an argument of another partial; "
        "it cannot be called by itself"
    )


def partial(func: Callable[..., Any] | None = None, /, *args: Any, **kwargs: Any) -> Any:
    """Works as `functools.partial`, and configures the defaults of `func` from outside.

    A `partial` without a function, given as a keyword argument, configures that argument's default:

        def train(optimizer=Adam): ...

        partial(train, optimizer=partial(lr=1e-3))      # train(optimizer=functools.partial(Adam, lr=1e-3))

    Args:
        func: What to configure; None inside another `partial`.
        *args: Its first positional arguments.
        **kwargs: Its keyword arguments.

    Raises:
        ValueError: A nested `partial` stands for an argument that has no default.
    """
    if func is None:
        return functools.partial(_default, *args, **kwargs)
    filled = {
        name: _fill(func, name, value) if _is_nested(value) else value for name, value in kwargs.items()
    }
    return functools.partial(func, *args, **filled)


def _is_nested(value: Any) -> bool:
    return isinstance(value, functools.partial) and value.func is _default


def _fill(func: Callable[..., Any], name: str, nested: Any) -> Any:
    parameter = inspect.signature(func).parameters.get(name)
    if parameter is None or parameter.default is inspect.Parameter.empty:
        raise ValueError(
            f"{name}=partial(...) needs an argument {name!r} with a default in {func!r}, found none; "
            "give the nested partial its function"
        )
    return partial(parameter.default, *nested.args, **nested.keywords)
