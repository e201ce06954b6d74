"""Work in processes: everything arrives, and what kills its worker costs itself alone."""

from __future__ import annotations

import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from privsyn.cohort.workers import ChunkRestarted, ChunkResult, ItemLost, in_process, in_processes

CHUNKS = [[0, 1, 2], [3, 4], [5, 6, 7, 8], [9]]


def twice(items: Sequence[int]) -> Iterator[list[int]]:
    """Each item on its own, then all of them."""
    for item in items:
        yield [2 * item]
    yield [2 * item for item in items]


def dies_of_four(items: Sequence[int]) -> Iterator[list[int]]:
    """As a decoder dies: without a word."""
    for item in items:
        if item == 4:
            os.kill(os.getpid(), signal.SIGSEGV)
        yield [item]


def hangs_at_six(items: Sequence[int]) -> Iterator[list[int]]:
    for item in items:
        if item == 6:
            time.sleep(600)
        yield [item]


def hungers(items: Sequence[int]) -> Iterator[str]:
    """What a header of a hostile file may ask for."""
    for _ in items:
        try:
            np.ones(40 << 30, np.uint8)
        except MemoryError:
            yield "refused"
        else:
            yield "given"


def faulty(items: Sequence[int]) -> Iterator[int]:
    for item in items:
        yield 1 // item


def _gathered(events: object) -> tuple[dict[int, list[int]], list[tuple[int, str]]]:
    values: dict[int, list[int]] = defaultdict(list)
    lost, last = [], set()
    for event in events:  # type: ignore[attr-defined]
        assert event.chunk not in last
        if isinstance(event, ChunkRestarted):
            values.pop(event.chunk, None)
            continue
        if isinstance(event, ItemLost):
            lost.append((event.item, event.why))
        elif isinstance(event, ChunkResult):
            values[event.chunk] += event.value
        if event.last:
            last.add(event.chunk)
    assert last == set(range(len(CHUNKS)))
    return dict(values), lost


def test_processes_give_what_one_process_gives() -> None:
    """Every part of every chunk, the parts of one chunk in their order."""
    wanted, _ = _gathered(in_process(twice, CHUNKS))
    assert wanted[0] == [0, 2, 4, 0, 2, 4]
    found, lost = _gathered(in_processes(twice, CHUNKS, 2))
    assert found == wanted
    assert not lost


@pytest.mark.parametrize(
    ("work", "item", "why"),
    [(dies_of_four, 4, "crashed"), (hangs_at_six, 6, "gave no answer in 3 s")],
)
def test_an_item_that_kills_its_worker_is_lost_alone(work: object, item: int, why: str) -> None:
    """Its chunk is done again in pieces; nothing comes twice, and nothing else is missing."""
    values, lost = _gathered(in_processes(work, CHUNKS, 2, patience=3))  # type: ignore[arg-type]
    assert sorted(value for some in values.values() for value in some) == [n for n in range(10) if n != item]
    assert [each for each, _ in lost] == [item]
    assert why in lost[0][1]


def test_a_worker_may_not_take_all_memory() -> None:
    """It hears of it as any program does, and goes on."""
    assert [event.value for event in in_processes(hungers, [[1], [2]], 1)] == ["refused", "refused"]  # type: ignore[union-attr]


def test_a_fault_of_the_work_itself_is_raised_here() -> None:
    """It is a bug, no hostile file."""
    with pytest.raises(ZeroDivisionError):
        list(in_processes(faulty, [[1], [0]], 2))
