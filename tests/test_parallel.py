from __future__ import annotations

import os
import signal
import threading
import time

import pytest
import torch

from privsyn.parallel import each


def test_results_come_in_order_from_threads_of_one_core() -> None:
    """Whatever the number of threads; and the caller's own number stays what it was."""
    before = torch.get_num_threads()

    def work(item: int) -> tuple[int, int]:
        time.sleep(0.01 * (item % 3))
        return item, torch.get_num_threads()

    for threads in (1, 3):
        assert each(work, range(7), threads) == [(item, 1) for item in range(7)]
    assert torch.get_num_threads() == before


def test_an_error_in_one_piece_is_raised() -> None:
    """And no thread outlives it."""

    def work(item: int) -> float:
        return 1 / item

    with pytest.raises(ZeroDivisionError):
        each(work, [1, 0, 2], 2)
    assert threading.active_count() == 1 or not any("ThreadPool" in t.name for t in threading.enumerate())


def test_ctrl_c_ends_what_was_begun_and_drops_the_rest() -> None:
    """KeyboardInterrupt comes once, after the last thread has ended; the old handler is back."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    done: list[int] = []

    def work(item: int) -> None:
        if item == 0:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        done.append(item)

    try:
        with pytest.raises(KeyboardInterrupt):
            each(work, range(100), 2)
        assert 0 in done
        assert len(done) < 10
        assert not any("ThreadPool" in thread.name for thread in threading.enumerate())
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
