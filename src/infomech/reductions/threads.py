"""Independent work side by side on threads, each with torch on one thread."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch


def cpu_threads(device: torch.device) -> int:
    """How many threads work on tensors of a device may use: torch's own number on a CPU, one elsewhere."""
    return torch.get_num_threads() if device.type == "cpu" else 1


def side_by_side(
    jobs: Sequence[Callable[[], Any]], *, threads: int, on_error: Callable[[], None] | None = None
) -> list[Any]:
    """The results of all jobs, in their order; at most `threads` run at a time, each with torch on one thread.

    Many small operations shared out over cores one by one spend their time waiting for each other, much of it when
    another process wants a core as well; whole jobs do not.

    Args:
        jobs: that share no state they write to.
        threads: with one, the jobs run in turn on the caller's thread, and torch's threads are left alone.
        on_error: called when a job has failed or the caller is interrupted, before the others are waited for.

    Raises:
        BaseException: the first failure, in the order of the jobs.
    """
    if threads <= 1 or len(jobs) == 1:
        return [job() for job in jobs]
    with torch_threads(), ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        futures = [pool.submit(job) for job in jobs]
        try:
            return [future.result() for future in futures]
        except BaseException:
            if on_error is not None:
                on_error()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def torch_threads(count: int | None = None) -> Iterator[None]:
    """Torch on `count` threads within, and on as many as before after; None leaves the number to what runs within.

    >>> with torch_threads(1):
    ...     torch.get_num_threads()
    1
    """
    threads = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(threads)


__all__ = ["cpu_threads", "side_by_side", "torch_threads"]
