"""The command ``incept``."""

import os
import signal
import sys

from incept._incept import run


def main() -> None:
    """Run the command with the arguments of this process, and exit with its code."""
    # Ctrl-C is the command's: it saves a checkpoint first. Python's handler would raise afterwards;
    # where the parent process ignores Ctrl-C, there is no such handler.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # A Vulkan layer of Mesa looks for a Wayland compositor here, and libwayland prints an error
    # where the session has no such folder, as over ssh and in containers.
    if sys.platform == "linux" and not os.environ.get("XDG_RUNTIME_DIR", "").startswith("/"):
        os.environ["XDG_RUNTIME_DIR"] = "/dev/null"
    sys.exit(run(["incept", *sys.argv[1:]]))
