"""Processes that are killed again and again make the box set that one process makes in peace.

Each of the processes computes its share and is killed with SIGKILL at a random moment, so many
times, with work left; then it is left to end. The bytes are compared with those of one process.

    python -m benchmarks.scale.kills --shards 200 --processes 4 --kills 20
"""

import argparse
import json
import multiprocessing
import random
import signal
import tempfile
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.scale.work import contents, make_source, work
from ccrop_pipeline.base import Observer
from ccrop_pipeline.boxset import validate

_PATIENCE = 120.0  # seconds without news of a process
_context = multiprocessing.get_context("forkserver")
# One clean process imports torch, once; workers are forks of it.
_context.set_forkserver_preload(["benchmarks.scale.work"])


def main() -> None:
    """Print one JSON object; fail where the box sets differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=200)
    parser.add_argument("--images", type=int, default=20, help="Images a shard.")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--kills", type=int, default=20, help="Kills of each process.")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        make_source(place / "tars", args.shards, args.images)
        print(json.dumps(killed(place, args.shards, args.processes, args.kills, args.seed)))


def killed(place: Path, shards: int, processes: int, kills: int, seed: int) -> dict[str, Any]:
    """Run it over the images in `place`/tars; tell how it went."""
    source, broken, whole = str(place / "tars"), place / "killed", place / "whole"
    started = time.perf_counter()
    work(source, str(whole), 0, 1)
    alone = time.perf_counter() - started
    started = time.perf_counter()
    told: list[list[int]] = [[] for _ in range(processes)]
    runners = [
        threading.Thread(target=_run, args=(source, str(broken), rank, shards, kills, told, seed))
        for rank in range(processes)
    ]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()
    leftovers = sum(path.name[0] == "." for path in broken.iterdir())
    assert contents(broken) == contents(whole), "the box sets differ"
    assert validate(broken) == []
    return {
        "shards": shards,
        "processes": processes,
        "kills": [len(moments) for moments in told],
        "shards_at_each_kill": told,
        "hidden_leftovers": leftovers,
        "identical_files": len(contents(whole)),
        "seconds": round(time.perf_counter() - started, 1),
        "seconds_of_one_process": round(alone, 1),
    }


class _News(Observer):
    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def shard_written(self, shard: str, images: int, unreadable: int = 0) -> None:
        self._pipe.send((shard, images, unreadable))


def _worker(source: str, out: str, rank: int, world_size: int, pipe: Connection) -> None:
    pipe.send("up")
    work(source, out, rank, world_size, _News(pipe))


def _run(
    source: str, out: str, rank: int, shards: int, kills: int, told: list[list[int]], seed: int
) -> None:
    """Start, kill and start again; `told` gets the shards of this rank that each kill found."""
    chance, world_size = random.Random(f"{seed} {rank}"), len(told)
    left = len(range(rank, shards, world_size))
    done = 0
    while True:
        pipe, other = _context.Pipe(duplex=False)
        process = _context.Process(target=_worker, args=(source, out, rank, world_size, other))
        process.start()
        other.close()
        kill = len(told[rank]) < kills
        # Enough shards are left for the kills to come.
        most = max(0, (left - done) // max(1, kills - len(told[rank])) - 1)
        news = 1 + chance.randint(0, most) if kill else 10**9
        done += _wait(pipe, news)
        if not kill:
            process.join(_PATIENCE)
            assert process.exitcode == 0, f"rank {rank} ended with {process.exitcode}"
            return
        time.sleep(chance.uniform(0, 0.15))
        process.kill()
        process.join()
        # One that ended before the kill reached it was not killed.
        if process.exitcode == -signal.SIGKILL:
            told[rank].append(done)


def _wait(pipe: Connection, news: int) -> int:
    """Wait for so many messages, or the end of the process; tell of how many shards they were."""
    shards = 0
    for _ in range(news):
        if not pipe.poll(_PATIENCE):
            raise TimeoutError("no news of a process.")
        try:
            shards += pipe.recv() != "up"
        except EOFError:
            break
    return shards


if __name__ == "__main__":
    main()
