"""Waiting for what another process does."""

import time
from collections.abc import Callable
from typing import Any


def wait_until(ready: Callable[[], Any], *, limit_s: float, told: Callable[[], str] = str) -> Any:
    """What ``ready`` gives once it is something; ``told`` says what to show if that does not come in time."""
    deadline = time.monotonic() + limit_s
    while not (found := ready()):
        assert time.monotonic() < deadline, told()
        time.sleep(0.1)
    return found
