"""Ray on a cluster of several nodes of this machine: its cost beside one process, and a lost node.

    python -m benchmarks.scale.ray_cluster --rounds 3

First one plain process and Ray with one worker in turns, then a run in which a node with two of
three workers is lost after a few shards. Every box set is compared with that of the plain process.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import ray
from ray.cluster_utils import Cluster

from benchmarks.scale.work import SETTINGS, contents, make_source, small_localizer, work
from ccrop_pipeline.base import Observer
from ccrop_pipeline.boxset import validate
from ccrop_pipeline.compute.ray_engine import compute_boxes_with_ray
from ccrop_pipeline.images import open_source


def main() -> None:
    """Print one JSON object; fail where box sets differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=12)
    parser.add_argument("--images", type=int, default=1000, help="Images a shard.")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    ray.init(address=cluster.address, logging_level="error", log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        make_source(place / "tars", args.shards, args.images)
        rounds = [_round(place, number) for number in range(args.rounds)]
        lost = _lost_node(place, cluster)
    ray.shutdown()
    cluster.shutdown()
    work_ratios = [one["ray_after_start"] / one["plain"] for one in rounds]
    results = {
        "shards": args.shards,
        "images": args.shards * args.images,
        "rounds": rounds,
        "median_ratio_after_start": round(median(work_ratios), 3),
        "median_seconds_to_start": median(one["ray_start"] for one in rounds),
        "lost_node": lost,
    }
    print(json.dumps(results))


class _Clock(Observer):
    """Tells when the first worker was up, and takes a node away when told to."""

    def __init__(self, cluster: Any = None, node: Any = None, after: int = 0) -> None:
        self._cluster, self._node, self._after = cluster, node, after
        self.written: list[str] = []

    def begun(self, *_plan: int) -> None:
        self.up = time.perf_counter()

    def shard_written(self, shard: str, *_rows: int) -> None:
        self.written.append(shard)
        if self._node and len(self.written) == self._after:
            self._cluster.remove_node(self._node, allow_graceful=False)


def _round(place: Path, number: int) -> dict[str, float]:
    source, plain = str(place / "tars"), place / f"plain-{number}"
    started = time.perf_counter()
    work(source, str(plain), 0, 1)
    seconds = time.perf_counter() - started
    start, rest = _with_ray(place, f"ray-{number}", _Clock(), workers=1)
    assert contents(place / f"ray-{number}") == contents(plain), "the box sets differ"
    return {
        "plain": round(seconds, 2),
        "ray_start": round(start, 2),
        "ray_after_start": round(rest, 2),
    }


def _with_ray(place: Path, name: str, clock: _Clock, workers: int | None) -> tuple[float, float]:
    """Compute; tell the seconds until the first worker was up, and those after."""
    started = time.perf_counter()
    source = open_source(place / "tars")
    compute_boxes_with_ray(source, small_localizer, place / name, SETTINGS, clock, workers)
    return clock.up - started, time.perf_counter() - clock.up


def _lost_node(place: Path, cluster: Any) -> dict[str, Any]:
    node = cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    clock = _Clock(cluster, node, after=3)
    seconds = _with_ray(place, "lost", clock, workers=None)
    assert contents(place / "lost") == contents(place / "plain-0"), "the box sets differ"
    assert validate(place / "lost") == []
    return {
        "workers": 3,
        "workers_lost": 2,
        "lost_after_shards": 3,
        "shards_written": len(clock.written),
        "identical_files": len(contents(place / "lost")),
        "seconds": round(sum(seconds), 2),
    }


if __name__ == "__main__":
    main()
