"""How many operations run at once in the plugin: the SDK's servicer has four threads, and a boot holds one for minutes.

Called once per process by `verbs`. The pool is found through the frame of the worker that runs us; where it is not
found (another SDK version) the stock four stay, and a warning says so. RERANKER_PLUGIN_THREADS sets another width.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor

WIDTH = int(os.environ.get("RERANKER_PLUGIN_THREADS") or 128)


def widen(width: int = WIDTH) -> bool:
    """Raise the number of threads of the pool that runs the caller; False when no such pool is found."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "_worker" and "executor_reference" in frame.f_locals:
            executor = frame.f_locals["executor_reference"]()
            if isinstance(executor, ThreadPoolExecutor):
                executor._max_workers = max(executor._max_workers, width)
                # what waits already would wait for the stock four: a thread is made when work comes, not afterwards
                for _ in range(executor._work_queue.qsize()):
                    executor._adjust_thread_count()
                return True
        if frame.f_back is None:
            return False
        frame = frame.f_back
    return False
