"""Two processes in two network namespaces, which share a folder and nothing else, make one box set.

Between the namespaces there is no network at all, so whatever they agree on went through the
folder. Run it as root on Linux; `unshare` is part of util-linux.

    python -m benchmarks.scale.hosts --shards 40
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.scale.work import contents, make_source, work
from ccrop_pipeline.boxset import validate


def main() -> None:
    """Print one JSON object; fail where the box sets differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=40)
    parser.add_argument("--images", type=int, default=200, help="Images a shard.")
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        source, out, rank = args.work
        print(_one_host(source, out, int(rank), args.hosts))
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(several_hosts(Path(folder), args.shards, args.images, args.hosts)))


def several_hosts(place: Path, shards: int, images: int, hosts: int) -> dict[str, object]:
    """Run one process a namespace at the same time; tell how it went."""
    make_source(place / "tars", shards, images)
    source = str(place / "tars")
    started = time.perf_counter()
    work(source, str(place / "alone"), 0, 1)
    alone = time.perf_counter() - started
    running = []
    for rank in range(hosts):
        command = ["unshare", "--net", "--uts", sys.executable, "-m", "benchmarks.scale.hosts"]
        command += ["--work", source, str(place / "shared"), str(rank), "--hosts", str(hosts)]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    told = [json.loads(process.communicate()[0]) for process in running]
    assert all(process.returncode == 0 for process in running)
    assert contents(place / "shared") == contents(place / "alone"), "the box sets differ"
    assert validate(place / "shared") == []
    assert len({host["network"] for host in told}) == hosts
    return {
        "shards": shards,
        "images": shards * images,
        "identical_files": len(contents(place / "shared")),
        "seconds_of_one_process": round(alone, 2),
        "hosts": told,
    }


def _one_host(source: str, out: str, rank: int, hosts: int) -> str:
    started = time.perf_counter()
    complete = work(source, out, rank, hosts)
    network = str(Path("/proc/self/ns/net").readlink())
    seconds = round(time.perf_counter() - started, 2)
    return json.dumps(
        {
            "network": network,
            "rank": rank,
            "found_it_complete": complete,
            "seconds": seconds,
        }
    )


if __name__ == "__main__":
    main()
