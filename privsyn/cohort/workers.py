"""A pool of worker processes that may die: a decoder that crashes or hangs costs one item.

Processes are started by `spawn`, so that they inherit no threads and no memory. A chunk whose worker dies or
stays silent too long is repeated item by item, and an item that kills its worker alone is reported as lost.
Each worker has one chunk in work and another queued, so that it does not wait.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

try:
    import resource
except ImportError:  # not on Windows, where memory is not bounded
    resource = None  # type: ignore[assignment]

T = TypeVar("T")
R = TypeVar("R")

PATIENCE = 300.0  # seconds that a worker may stay silent, per chunk
AHEAD = 2  # chunks that a worker has at a time
ADDRESS_SPACE = 16 << 30  # bytes that a worker may ask for; hostile files ask for more


@dataclass(frozen=True)
class ChunkResult(Generic[R]):
    """One result of a chunk; `last` is true for its final result."""

    chunk: int
    value: R
    last: bool


@dataclass(frozen=True)
class ChunkRestarted:
    """The worker of a chunk died: its results so far are void, and the chunk is repeated item by item."""

    chunk: int


@dataclass(frozen=True)
class ItemLost(Generic[T]):
    """An item that killed its worker; `why` is the reason, as text."""

    chunk: int
    item: T
    why: str
    last: bool


WorkerEvent = ChunkResult[R] | ChunkRestarted | ItemLost[T]


def in_process(
    work: Callable[[Sequence[T]], Iterable[R]], chunks: Iterable[Sequence[T]]
) -> Iterator[ChunkResult[R]]:
    """The same events, computed in this process and in order."""
    for number, chunk in enumerate(chunks):
        yield from _parts(number, work(chunk))


def in_processes(
    work: Callable[[Sequence[T]], Iterable[R]],
    chunks: Iterable[Sequence[T]],
    processes: int,
    patience: float = PATIENCE,
) -> Iterator[ChunkResult[R] | ChunkRestarted | ItemLost[T]]:
    """What `work` yields for each chunk; chunks in any order, the results of a chunk in their order.

    Args:
        work: can be pickled, as can items and results; yields at least once for a chunk.
        processes: at least 1.
        patience: seconds after which a silent worker is killed.
    """
    yield from _Pool(work, iter(enumerate(chunks)), processes, patience).events()


def _parts(number: int, values: Iterable[R]) -> Iterator[ChunkResult[R]]:
    """Each value, marked if it is the last."""
    iterator = iter(values)
    value = next(iterator)
    for following in iterator:
        yield ChunkResult(number, value, last=False)
        value = following
    yield ChunkResult(number, value, last=True)


@dataclass
class _Task:
    number: int
    items: Sequence[Any]
    later: deque[Any] = field(default_factory=deque)  # the rest of a chunk that is repeated item by item


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    tasks: deque[_Task] = field(default_factory=deque)  # the first is being worked on
    deadline: float = 0.0


class _Pool:
    def __init__(
        self, work: Callable[..., Any], chunks: Iterator[tuple[int, Any]], count: int, patience: float
    ) -> None:
        self.work, self.chunks, self.patience = work, chunks, patience
        self.again: deque[_Task] = deque()
        self.workers = [self._started() for _ in range(count)]

    def events(self) -> Iterator[Any]:
        try:
            while self._give_work():
                busy = {worker.pipe: worker for worker in self.workers if worker.tasks}
                soonest = min(worker.deadline for worker in busy.values())
                heard = wait(list(busy), timeout=max(0.0, soonest - time.monotonic()))
                for pipe in heard:
                    yield from self._hear(busy[pipe])  # type: ignore[index]
                for worker in busy.values():
                    if worker.tasks and time.monotonic() > worker.deadline:
                        yield from self._bury(worker, f"gave no answer in {self.patience:.0f} s")
        finally:
            for worker in self.workers:
                self._end(worker)

    def _give_work(self) -> bool:
        """Give each worker up to `AHEAD` chunks, in turns; returns whether any worker is busy."""
        for wanted in range(1, AHEAD + 1):
            for worker in self.workers:
                if len(worker.tasks) < wanted and (task := self._next()) is not None:
                    if not worker.tasks:
                        worker.deadline = time.monotonic() + self.patience
                    worker.tasks.append(task)
                    with suppress(OSError):  # a dead worker is noticed when it is listened to
                        worker.pipe.send(task.items)
        return any(worker.tasks for worker in self.workers)

    def _next(self) -> _Task | None:
        if self.again:
            return self.again.popleft()
        number, items = next(self.chunks, (-1, None))
        return None if items is None else _Task(number, items)

    def _hear(self, worker: _Worker) -> Iterator[Any]:
        try:
            kind, value = worker.pipe.recv()
        except (EOFError, OSError):
            yield from self._bury(worker, "crashed the program that decodes it")
            return
        if kind == "fault":
            raise value
        worker.deadline = time.monotonic() + self.patience
        task = worker.tasks[0]
        yield ChunkResult(task.number, value, last=kind == "last" and not task.later)
        if kind == "last":
            worker.tasks.popleft()
            self._go_on(task)

    def _bury(self, worker: _Worker, why: str) -> Iterator[Any]:
        task, *untouched = worker.tasks
        self._end(worker)
        fresh = self._started()
        worker.process, worker.pipe = fresh.process, fresh.pipe
        worker.tasks.clear()
        self.again.extend(untouched)
        if len(task.items) > 1:
            yield ChunkRestarted(task.number)
            self.again.append(_Task(task.number, task.items[:1], deque(task.items[1:])))
        else:
            yield ItemLost(task.number, task.items[0], why, last=not task.later)
            self._go_on(task)

    def _go_on(self, task: _Task) -> None:
        if task.later:
            self.again.append(_Task(task.number, [task.later.popleft()], task.later))

    def _started(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there, self.work), daemon=True)
        process.start()
        there.close()
        return _Worker(process, here)

    def _end(self, worker: _Worker) -> None:
        worker.pipe.close()
        worker.process.kill()
        worker.process.join()


def _serve(pipe: Connection, work: Callable[[Sequence[T]], Iterable[R]]) -> None:
    """The loop of a worker: chunks in, results out, until the caller is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller handles Ctrl-C and kills its workers
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoding libraries print there; results are sent
    if resource is not None:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, resource.RLIM_INFINITY))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold pixels of patients
    given: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_receive, args=(pipe, given), daemon=True).start()
    with suppress(BrokenPipeError, ConnectionResetError):
        while (items := given.get()) is not None:
            try:
                for part in _parts(0, work(items)):
                    pipe.send(("last" if part.last else "part", part.value))
            except (BrokenPipeError, ConnectionResetError):
                raise
            except Exception as error:
                pipe.send(("fault", error))


def _receive(pipe: Connection, given: SimpleQueue[Any]) -> None:
    """Take chunks off the pipe at once: a caller that is blocked in sending would not receive results."""
    try:
        while True:
            given.put(pipe.recv())
    except (EOFError, OSError):
        pass
    finally:
        given.put(None)
