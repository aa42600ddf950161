"""Wait: no wait is silent and none lasts for ever unless asked to.

Whoever waits longer than ten seconds says what for, whom for and since when; a limit makes it an error.
"""

import logging
import time
from collections.abc import Callable
from datetime import datetime

from tmrl.errors import StalledError

logger = logging.getLogger(__name__)

TELL_AFTER_S = 10.0
"""Seconds from the beginning of a wait, and then from one message to the next."""


class Wait:
    """One wait, from its construction on.

    Args:
        what: What is awaited, for the messages: "room in the outbox".
        limit_s: Seconds after which `check` raises; may be infinite.
    """

    def __init__(self, what: str, limit_s: float = float("inf")) -> None:
        self._what = what
        self._limit_s = limit_s
        self._since = datetime.now().astimezone()
        self._began_at = time.monotonic()
        self._told_at = self._began_at

    @property
    def elapsed_s(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._began_at

    def next_s(self) -> float:
        """Seconds to sleep at most before the next `check`."""
        now = time.monotonic()
        until = min(self._told_at + TELL_AFTER_S, self._began_at + self._limit_s)
        return max(0.0, until - now)

    def check(self, whom: Callable[[], str]) -> None:
        """Says what is awaited, if it is time to.

        Args:
            whom: Says for whom one waits, and what was seen of it last.

        Raises:
            StalledError: The wait has outlasted its limit.
        """
        now = time.monotonic()
        if now - self._began_at >= self._limit_s:
            raise StalledError(
                f"waited for {self._what} since {self._since:%X}, more than {self._limit_s:g} s, on "
                f"{whom()}; see whether it runs, or raise the limit"
            )
        if now - self._told_at >= TELL_AFTER_S:
            self._told_at = now
            logger.warning("waiting for %s since %s, on %s", self._what, f"{self._since:%X}", whom())
