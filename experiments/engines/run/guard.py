"""Runs a command until it ends, or until the process that started this one is gone: `python guard.py COMMAND...`.

Whoever starts it keeps the other end of its standard input. When that end closes, also because its holder was killed,
the whole process group is ended: nothing that an engine has started is left behind. On Linux the command also ends with
this process, which Ray kills together with a worker.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

PR_SET_PDEATHSIG = 1
"""Of prctl(2): which signal a process gets when its parent ends."""

MAX_GRACE_SECONDS = 3.0
"""Seconds that the command gets to end after SIGTERM."""


def main() -> None:
    """Run `argv[1:]` in this process group, of which this process is the leader; exit as the command does."""
    # A handler, not SIG_IGN: that would be inherited by the command.
    signal.signal(signal.SIGTERM, lambda *_: None)
    # No threads run yet, so that it is safe to run Python between fork and exec.
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, preexec_fn=_end_with_parent)  # noqa: PLW1509
    threading.Thread(target=_end_with_input, daemon=True).start()
    code = child.wait()
    sys.exit(code if code >= 0 else 128 - code)


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _end_with_input() -> None:
    while os.read(0, 64):
        pass
    os.killpg(0, signal.SIGTERM)
    time.sleep(MAX_GRACE_SECONDS)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
