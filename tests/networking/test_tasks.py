"""Coroutines side by side: what the first one raises, and what is left of it."""

import asyncio
import gc
import weakref
from contextlib import suppress

import pytest

from tmrl.errors import ProtocolError
from tmrl.networking import background
from tmrl.networking.tasks import either


class Frame:
    """Large, in the place where this stands for it."""


async def refuse(seen):
    frame = Frame()
    seen.append(weakref.ref(frame))
    raise ProtocolError("no")


@pytest.mark.parametrize("is_last", [False, True])
def test_what_a_refused_peer_sent_is_let_go_of_at_once(is_last):
    async def hear():
        seen = []
        with suppress(ProtocolError):  # pytest.raises would keep the error
            works = [refuse(seen), asyncio.sleep(60)]
            await either(*(reversed(works) if is_last else works))
        return seen[0]()

    gc.disable()
    try:
        assert background.run(hear(), 10) is None
    finally:
        gc.enable()
