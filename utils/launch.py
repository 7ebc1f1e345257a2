"""Start the same function in several processes, one a GPU, from wherever this one runs."""

from __future__ import annotations

import copy
import os
import socket
from collections.abc import Callable
from typing import Any

import torch
from torch import multiprocessing

#: Called with the kind of a message and its content.
Report = Callable[[str, dict[str, Any]], None]


def is_launched() -> bool:
    """Tell whether this process is one of several already, as under `accelerate launch`."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def process_count(device: torch.device) -> int:
    """How many processes a device calls for: one for each visible GPU, unless one is named."""
    if device.type == "cuda" and device.index is None:
        return torch.cuda.device_count()
    return 1


def run_processes(
    function: Callable[[Any, Report], Any], job: Any, processes: int, report: Report
) -> None:
    """Run `function(job, report)` in new processes of this machine, and wait for them.

    They are spawned, for a notebook that has used its GPU once cannot be forked any more; what
    they need travels by pickle between our own processes. The messages of the first one reach
    `report` here.

    Args:
        function: of an importable module.
        job: its argument, the same for all.
        processes: how many.
        report: called here with what the first process reports.
    Raises:
        what the function raised: the others are stopped then.
    """
    queue = multiprocessing.get_context("spawn").Queue()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    args = (processes, port, function, job, queue)
    context = multiprocessing.start_processes(
        _enter, args, nprocs=processes, join=False, start_method="spawn"
    )
    failures: list[BaseException] = []

    def drain() -> None:
        while not queue.empty():
            kind, content = queue.get()
            if kind == "error":
                failures.append(content)
            else:
                report(kind, content)

    try:
        while not context.join(timeout=0.2):
            drain()
    except multiprocessing.ProcessRaisedException:
        drain()
        if failures:  # the first error; those of the others are about its absence
            raise failures[0] from None
        raise
    finally:
        for process in context.processes:  # of a user's interruption
            process.terminate()
    drain()


def _enter(
    rank: int,
    processes: int,
    port: int,
    function: Callable[[Any, Report], Any],
    job: Any,
    queue: Any,
) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    # Each process would take all cores for itself, and wait for the others' threads.
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))

    def report(kind: str, content: dict[str, Any]) -> None:
        if rank == 0:
            queue.put((kind, content))

    try:
        # A copy: what arrives shares its memory with the other processes, the model's weights too.
        function(copy.deepcopy(job), report)
    except Exception as error:
        queue.put(("error", error))
        raise
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
