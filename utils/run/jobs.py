"""Work beside work: the next frame while this one is searched, many files in many processes."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import cv2
import joblib
import torch
from joblib.externals.loky.process_executor import BrokenProcessPool
from tqdm.auto import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")
#: How often a job may take its process down before it is given up.
ATTEMPTS = 3
#: Items that a thread takes at a time.
CHUNK = 64


#: Set where nobody sees bars, by who runs notebooks: progress is told on standard error as well.
HEADLESS = "DEEPFAKE_HEADLESS"
#: Seconds between two lines of one bar.
TELL_EVERY = 30.0


def tell(line: str) -> None:
    """Print a line of progress past the notebook, where HEADLESS is set; see `tools.run`."""
    if HEADLESS in os.environ:
        start = "\r\x1b[K" if os.isatty(2) else ""  # over a bar that stands there
        os.write(2, f"{start}{line}\n".encode())


class Bar(tqdm):
    """tqdm's bar; where nobody sees it, a line every half minute."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._told = time.monotonic()
        super().__init__(*args, **options)

    def update(self, n: float | None = 1) -> bool | None:
        """Count `n` more."""
        shown = super().update(n)
        if not self.disable and time.monotonic() - self._told >= TELL_EVERY:
            self._told = time.monotonic()
            form = "{desc}: {n_fmt}/{total_fmt} {unit} [{elapsed}, {remaining} left{postfix}]"
            tell(self.format_meter(**self.format_dict | {"bar_format": form}))
        return shown


def prefetch(items: Iterable[Item], size: int = 2) -> Iterator[Item]:
    """Make the next `size` items in a thread while this one is worked on.

    For a generator whose work lets other threads run, as decoding does. The items come in order;
    what making one raises is raised here in its place.
    """
    source, end = iter(items), object()
    with ThreadPoolExecutor(1) as thread:
        ready = deque(thread.submit(next, source, end) for _ in range(max(1, size)))
        try:
            while (item := ready.popleft().result()) is not end:
                ready.append(thread.submit(next, source, end))
                yield item  # type: ignore[misc]
        finally:
            for future in ready:
                future.cancel()


def map_threads(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    desc: str,
    unit: str,
    progress: bool = True,
) -> Iterator[Result]:
    """Apply a function to items in one thread a core, and show how far it is; results in order.

    For work that lets go of the interpreter lock, as decoding and OpenCV do: nothing is copied.
    `desc` and `unit` are those of the bar.
    """

    def of_chunk(start: int) -> list[Result]:
        return [function(item) for item in items[start : start + CHUNK]]

    parallel = joblib.Parallel(n_jobs=-1, prefer="threads", return_as="generator")
    chunks = parallel(joblib.delayed(of_chunk)(i) for i in range(0, len(items), CHUNK))
    with Bar(total=len(items), desc=desc, unit=unit, disable=not progress) as bar:
        for results in chunks:
            bar.update(len(results))
            yield from results


def run_jobs(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int = 0,
    scheduler: str = "",
    lost: Callable[[Item], Result] | None = None,
) -> Iterator[Result]:
    """Work through many items in many processes, and give each result when it is there.

    A process that dies is survived: what it was at is done again, and every item gives exactly one
    result. The function may run twice for one item, so what it writes it must write as a whole.

    Args:
        function: of a module that the processes can import; runs with one thread of torch and of
            OpenCV, unless it runs here.
        items: what it is applied to; they travel to the processes pickled.
        workers: number of processes; 0: one for each core; 1: no other process, all of it here.
        scheduler: address of a Dask scheduler, such as "tcp://10.0.0.1:8786". Its workers do the
            work then; each must find `utils` (PYTHONPATH) and see the same files.
        lost: gives the result of an item whose process died every time; None: RuntimeError.
    Raises:
        ImportError: `scheduler` is given and `distributed` is not installed.
        OSError: nothing answers at `scheduler`.
    """
    left, deaths = dict(enumerate(items)), Counter[int]()
    with _pool(workers, len(left), scheduler) as (size, run):
        if size == 1 and not scheduler:
            yield from map(function, left.values())
            return
        while left:
            # At last alone: then it is certain that this one takes its process down.
            alone = [number for number in left if deaths[number] == ATTEMPTS - 1][:1]
            chosen = alone or list(left)
            tasks = [joblib.delayed(_run)(function, number, left[number]) for number in chosen]
            try:
                for number, result in run(tasks):
                    del left[number]
                    yield result
            except _killed():
                # Started in this order, so the first ones without a result were being worked on.
                deaths.update([number for number in chosen if number in left][:size])
            for number in [number for number in alone if deaths[number] == ATTEMPTS]:
                item = left.pop(number)
                if lost is None:
                    raise RuntimeError(f"{item!r} took its process down {ATTEMPTS} times")
                yield lost(item)


@contextmanager
def _pool(workers: int, n_items: int, scheduler: str) -> Iterator[tuple[int, Callable]]:
    """How many jobs run at a time, and what runs a list of them and gives results as they come."""
    if not scheduler:
        size = max(1, min(workers or joblib.cpu_count(), n_items))
        loky = {"backend": "loky", "inner_max_num_threads": 1}
        yield size, partial(_parallel, loky, max(2, size), size)
        return
    try:
        from distributed import Client
    except ImportError as error:
        needed = "SCHEDULER needs Dask, here and on its workers: pip install distributed"
        raise ImportError(needed) from error
    with Client(scheduler, timeout="10s") as client:
        try:
            client.run(_run, len, 0, ())
        except Exception as error:
            if "ModuleNotFoundError" not in repr(error):  # as which it arrives only sometimes
                raise
            raise ImportError(
                f"a worker of {scheduler} does not find this project ({error}): start it with "
                "PYTHONPATH=path/to/the/project"
            ) from error
        size = max(1, sum(client.nthreads().values()))
        yield size, partial(_parallel, {"backend": "dask", "client": client}, -1, "all")


def _parallel(
    backend: dict[str, Any], n_jobs: int, ahead: int | str, tasks: list
) -> Iterator[tuple[int, Any]]:
    # A new one for each list: one that broke would give its last results again.
    with joblib.parallel_config(**backend):  # read once, when it is made
        parallel = joblib.Parallel(
            n_jobs=n_jobs, return_as="generator_unordered", batch_size=1, pre_dispatch=ahead
        )
    return parallel(tasks)


def _killed() -> tuple[type[BaseException], ...]:
    """What tells that a process died; Dask's only where Dask is in use."""
    dask = sys.modules.get("distributed")
    return (BrokenProcessPool, dask.KilledWorker) if dask else (BrokenProcessPool,)


def _run(function: Callable[[Item], Result], number: int, item: Item) -> tuple[int, Result]:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    return number, function(item)
