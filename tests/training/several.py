"""A run in several processes, as torchrun starts them."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _process(rank: int, count: int, port: int, work: Callable[..., None], args: tuple) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    work(*args)


def start(count: int, work: Callable[..., None], *args: Any) -> list[Any]:
    """Starts ``work(*args)`` in each of so many processes."""
    port = free_port()
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_process, args=(rank, count, port, work, args))
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    return processes


def run(count: int, work: Callable[..., None], *args: Any, timeout: float = 120) -> list[int]:
    """Runs ``work(*args)`` in so many processes; returns their exit codes."""
    processes = start(count, work, *args)
    for process in processes:
        process.join(timeout)
        if process.is_alive():
            process.kill()
    return [process.exitcode for process in processes]
