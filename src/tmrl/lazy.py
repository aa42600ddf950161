"""Lazy exports for packages, so that importing one part does not load torch, grpc or matplotlib."""

from collections.abc import Callable
from importlib import import_module


def lazy_exports(
    package: str, homes: dict[str, str]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Makes a package's module-level `__getattr__` and `__dir__` (PEP 562).

    Args:
        package: The package's `__name__`.
        homes: Public name to the module that defines it.

    Returns:
        The two functions; the first imports a name's module when the name is first used.
    """

    def __getattr__(name: str) -> object:  # noqa: N807 - the name that PEP 562 asks for
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(homes[name]), name)

    return __getattr__, lambda: sorted(homes)
