"""Runs independent pieces of work in threads, one core each (docs/decisions, 0016)."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def each(
    work: Callable[[T], R], items: Sequence[T], threads: int, interrupted: threading.Event | None = None
) -> list[R]:
    """`work` of each item, in order; kernels in it use one core, whatever the number of threads.

    On Ctrl-C, work that has started is finished and the rest is dropped.

    Args:
        interrupted: set by Ctrl-C, so that long work can stop earlier.

    Raises:
        KeyboardInterrupt: after the last thread has ended, so that none outlives the program.
    """
    interrupted = interrupted or threading.Event()

    def unless_interrupted(item: T) -> R:
        if interrupted.is_set():
            raise KeyboardInterrupt
        return work(item)

    with (
        _sets(interrupted),
        ThreadPoolExecutor(threads, initializer=lambda: torch.set_num_threads(1)) as pool,
    ):
        done = list(pool.map(unless_interrupted, items))
    if interrupted.is_set():
        raise KeyboardInterrupt
    return done


@contextmanager
def _sets(interrupted: threading.Event) -> Iterator[None]:
    """Ctrl-C sets the event and raises nothing: an exception while a thread starts would lose that thread."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield  # only the main thread receives signals, and ignored ones need no handler
        return
    signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
