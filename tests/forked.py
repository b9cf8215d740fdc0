"""Something done in a forked process, which may be killed or run out of something there."""

from __future__ import annotations

import os
from collections.abc import Callable


def in_child(act: Callable[[], str]) -> str:
    """Do something in a forked process, and return what it said, or the error that it raised."""
    reading, writing = os.pipe()
    if not (child := os.fork()):
        try:
            said = act()
        except BaseException as error:  # all is told
            said = f"{type(error).__name__}: {error}"[:2_000]
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said
