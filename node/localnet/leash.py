"""Run a Python module as a child that does not outlive its parent: `python -m node.localnet.leash MODULE [ARG ...]`.

The parent holds the other end of standard input. When it goes away, however it dies, the pipe closes and the child ends.
"""

import os
import runpy
import signal
import sys
import threading
import time

GRACE_S = 10


def _watch() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_watch, name="leash", daemon=True).start()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
