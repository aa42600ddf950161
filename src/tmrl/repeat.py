"""Repeat: something that is done every so many seconds, in a thread of its own."""

import logging
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)


class Repeat:
    """Calls a function every so many seconds until `stop`; an error is logged, and it goes on.

    The thread is a daemon: it does not keep the program from ending.

    Args:
        call: What to do.
        interval_s: Seconds from one call to the next.
    """

    def __init__(self, call: Callable[[], None], interval_s: float) -> None:
        self._call = call
        self._interval_s = interval_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tmrl-repeat", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.wait(self._interval_s):
            try:
                self._call()
            except Exception:
                logger.exception("%s failed; it is tried again in %g s", self._call, self._interval_s)

    def stop(self) -> None:
        """Ends it, after the call in progress."""
        self._stopped.set()
        self._thread.join()
