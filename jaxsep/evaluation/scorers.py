"""Processes that score tracks, several at a time. They are told by pipes what to do.

Not by concurrent.futures' pool of processes: its semaphores outlive a run that is interrupted, and Python then says so.
"""

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait

from jaxsep import unfinished
from jaxsep.environment import processors
from jaxsep.errors import AudioError, JaxsepError
from jaxsep.evaluation.scoring import ScoringJob, score_track


class Scorers:
    """Processes, each of which scores one track at a time."""

    def __init__(self, processes: int) -> None:
        """Starts them.

        Args:
            processes: Number of processes.
        """
        self._workers = [_Worker() for _ in range(processes)]
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(processes)

    def submit(self, job: ScoringJob) -> Future[JaxsepError | None]:
        """Returns what will be what went wrong with the track, as `score_track` says it."""
        return self._threads.submit(self._score, job)

    def close(self) -> None:
        """Waits for what is running, and ends the processes."""
        self._threads.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.close()

    def _score(self, job: ScoringJob) -> JaxsepError | None:
        worker = self._idle.get()
        try:
            return worker.score(job)
        finally:
            self._idle.put(worker)


@contextmanager
def scorers(processes: int) -> Iterator[Scorers]:
    """Starts processes that share the cores: each with as many threads as are left for it.

    Args:
        processes: Number of processes.
    """
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    for name in names:
        os.environ.setdefault(name, str(max(1, processors() // processes)))
    try:
        made = Scorers(processes)
        try:
            yield made
        finally:
            made.close()
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class _Worker:
    """One process, started anew when something has ended it, unless it could not even begin."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        # Never forked: JAX has threads.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        self._has_begun = False
        theirs.close()

    def score(self, job: ScoringJob) -> JaxsepError | None:
        try:
            if not self._has_begun:
                self._has_begun = self._pipe.recv()
            self._pipe.send(job)
            return self._pipe.recv()
        except (EOFError, OSError):
            self.close()
            if not self._has_begun:
                return AudioError(
                    f"The track '{job.track.name}' cannot be scored: no process for it begins; use --jobs 1."
                )
            self._start()
            return AudioError(
                f"The process that scored the track '{job.track.name}' was ended from outside, perhaps for its "
                "memory; use fewer --jobs, and start again to go on."
            )

    def close(self) -> None:
        self._pipe.close()
        self._process.join()


def _serve(pipe: Connection) -> None:
    """Says that it has begun, and scores what comes by the pipe until that is closed."""
    # Ctrl-C is for the process that started this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    # Whoever asked may be gone by the time that there is an answer: then nobody is told.
    answer: JaxsepError | bool | None = True
    while True:
        try:
            pipe.send(answer)
            job = pipe.recv()
        except (EOFError, OSError):
            return
        answer = score_track(job)


def _end_with_parent() -> None:
    """Ends this process when the one that started it is gone, and leaves nothing unfinished."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    unfinished.changing_names.acquire()
    unfinished.discard_all()
    os._exit(1)
