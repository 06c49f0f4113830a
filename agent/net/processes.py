"""What each process that this program starts for its own work does first."""

from __future__ import annotations

import os
import signal
from multiprocessing import connection, parent_process
from threading import Thread


def begin_child() -> None:
    """For the ``initializer`` of a pool of processes.

    Ctrl-C goes to the whole process group, but the parent alone decides what it means. A parent that was killed tells
    nobody, and the pool's own queue would keep its processes for ever: they end by themselves.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:
        Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)
