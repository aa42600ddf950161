"""Arguments that code written for the documented interface passes, and that mean nothing any more."""

import warnings
from typing import Any


def warn_retired(owner: str, replacement: str, **arguments: Any) -> None:
    """Warns once, naming every argument that was given, if any was.

    Args:
        owner: Name of the class whose constructor was called.
        replacement: What to use instead.
        **arguments: The arguments' values; None means not given.
    """
    given = [name for name, value in arguments.items() if value is not None]
    if given:
        warnings.warn(
            f"{owner} ignores {', '.join(given)}: they configured the original's transport; "
            f"use {replacement} instead",
            UserWarning,
            stacklevel=3,
        )
