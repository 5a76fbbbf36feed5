"""What runs beside the device: reading ahead of it and writing behind it, in threads. No audio, no jax."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

Item = TypeVar("Item")

Outcome = TypeVar("Outcome")

# Blocks that may wait for the encoder: those of one chunk.
_WRITE_BEHIND = 2
_END: Any = object()


def ahead(items: Iterator[Item], depth: int) -> Generator[Item, None, None]:
    """Yields what an iterator gives while a thread prepares what comes next.

    Args:
        items: Runs in the thread, one item at a time; what it raises is raised here, in its place.
        depth: Items that may wait, with the one in the making.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
        pending: deque[Future[Item]] = deque(thread.submit(next, items, _END) for _ in range(depth))
        try:
            while (item := pending.popleft().result()) is not _END:
                pending.append(thread.submit(next, items, _END))
                yield item
        finally:
            for future in pending:
                future.cancel()


class Encoder:
    """One thread that writes, behind the device; and one for each stem, since encoders release the interpreter's lock.

    mp3 of two stems takes little longer than of one.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encode")
        self._stems = ThreadPoolExecutor(thread_name_prefix="encode-stem")
        self._pending: deque[Future[None]] = deque()

    def __enter__(self) -> "Encoder":
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)
        self._stems.shutdown()

    def submit(self, work: Callable[[], None]) -> None:
        """Has something written; waits while more than a chunk's worth is waiting."""
        while len(self._pending) >= _WRITE_BEHIND:
            self._pending.popleft().result()
        self._pending.append(self._thread.submit(work))

    def finish(self, work: Callable[[], Outcome]) -> Outcome:
        """Returns what the work gives when all before it has been written."""
        while self._pending:
            self._pending.popleft().result()
        return self._thread.submit(work).result()

    def of_each(self, work: Callable[..., None], *arguments: Iterable[Any]) -> None:
        """Calls in parallel, as `map` does; an error is raised when no call is at work any more."""
        calls = [self._stems.submit(work, *each) for each in zip(*arguments, strict=True)]
        wait(calls)
        for call in calls:
            call.result()
