"""The command ``incept``."""

import signal
import sys

from incept._incept import run
from incept._wayland import quiet_wayland


def main() -> None:
    """Run the command with the arguments of this process, and exit with its code."""
    # Ctrl-C is the command's: it saves a checkpoint first. Python's handler would raise afterwards;
    # where the parent process ignores Ctrl-C, there is no such handler.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    with quiet_wayland():
        code = run(["incept", *sys.argv[1:]])
    sys.exit(code)
