"""Keeps libwayland quiet where there is no desktop."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_wayland() -> Iterator[None]:
    """Set XDG_RUNTIME_DIR, if the session has none, while devices are listed or opened.

    A Vulkan layer of Mesa looks for a Wayland compositor there, and libwayland prints an error if the
    variable is not set, as over ssh and in containers. A path without sockets makes it fail silently.
    """
    name = "XDG_RUNTIME_DIR"
    before = os.environ.get(name)
    if sys.platform != "linux" or (before or "").startswith("/"):
        yield
        return
    os.environ[name] = "/dev/null"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before
