"""What the commands say, and how what went wrong becomes a message and an exit code."""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console

FAILED = 1
WRONG_CALL = 2
INTERRUPTED = 130


@contextmanager
def damage_told() -> Generator[None]:
    """Turns data or credentials that turn out to be damaged into a message and exit code 1."""
    from tmrl.errors import CredentialError, DatasetError

    try:
        yield
    except (CredentialError, DatasetError) as error:
        tell(str(error))
        sys.exit(FAILED)


@contextmanager
def wrong_calls_told() -> Generator[None]:
    """Turns what a wrong call raises, before any work began, into a message and exit code 2.

    Credentials, an outbox or a spool that cannot be used are exit code 1, as everywhere.
    """
    from tmrl.errors import CredentialError, StorageError

    try:
        yield
    except (CredentialError, StorageError) as error:
        tell(str(error))
        sys.exit(FAILED)
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        tell(str(error))
        sys.exit(WRONG_CALL)


@contextmanager
def readers_may_leave() -> Generator[None]:
    """Ends this process quietly, with exit code 1, when who reads its output is gone, as `head` soon is."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more at its end, and would say that it cannot.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)


def say(message: str) -> None:
    """Prints one line, as it is."""
    Console().print(message, soft_wrap=True, highlight=False, markup=False)


def tell(message: str) -> None:
    """Prints what went wrong, on standard error."""
    Console(stderr=True).print(f"tmrl: {message}", soft_wrap=True, highlight=False, markup=False)
