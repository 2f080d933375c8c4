"""The Ray engine, on a cluster of several nodes on this machine where Ray is installed."""

import builtins
import sys
from pathlib import Path

import pytest
import torch

from ccrop_pipeline.base import Observer
from ccrop_pipeline.boxset import validate
from ccrop_pipeline.compute import compute_boxes
from ccrop_pipeline.compute.ray_engine import compute_boxes_with_ray
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images import Scenes, open_source, pack
from ccrop_pipeline.localize import BoxRule, Encoder, Localizer, build_backbone

pytestmark = pytest.mark.slow

SETTINGS = {"batch_size": 7, "threads": 1}


def localizer(seed=0):
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    backbone = build_backbone("small")
    return Localizer(
        Encoder(backbone, backbone.layer, 32, name="small", epoch=3), rule=BoxRule(0.1)
    )


def refuses():
    raise CcropError("this model cannot be opened")


@pytest.fixture
def source(tmp_path):
    pack(Scenes(60, size=32), tmp_path / "tars", max_images=5)
    return open_source(tmp_path / "tars")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}


def test_without_ray_a_person_is_told_what_to_install(source, tmp_path, monkeypatch):
    real = builtins.__import__

    def refused(name, *args, **kwargs):
        if name == "ray":
            raise ImportError("No module named 'ray'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refused)
    with pytest.raises(CcropError, match=r"pip install ray"):
        compute_boxes_with_ray(source, localizer, tmp_path / "boxes", **SETTINGS)
    assert not (tmp_path / "boxes").exists()


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    # Workers have the package and not the tests, so functions of this file go there by value.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    ray.init(address=cluster.address, logging_level="error", log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


class KillsOnTheWay(Observer):
    """Removes a node when a few shards are done, as a power cut does."""

    def __init__(self, cluster, node):
        self.cluster, self.node, self.written, self.plan = cluster, node, [], None

    def begun(self, shards, kept):
        self.plan = (shards, kept)

    def shard_written(self, shard, images, unreadable=0):
        self.written.append((shard, images, unreadable))
        if len(self.written) == 3 and self.node:
            self.cluster.remove_node(self.node, allow_graceful=False)


def test_with_a_node_killed_on_the_way_the_boxes_are_those_of_one_process(
    cluster, source, tmp_path
):
    node = cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    observer = KillsOnTheWay(cluster, node)
    box_set = compute_boxes_with_ray(
        source, localizer, tmp_path / "ray", **SETTINGS, observer=observer
    )
    assert validate(box_set.folder) == []
    compute_boxes(source, localizer(), tmp_path / "plain", **SETTINGS)
    assert contents(tmp_path / "ray") == contents(tmp_path / "plain")
    assert observer.plan == (12, 0)
    assert sorted(shard for shard, *_ in observer.written) == sorted(source.shards)


def test_what_is_there_is_kept_and_other_boxes_are_refused(cluster, source, tmp_path):
    compute_boxes(source, localizer(), tmp_path / "plain", **SETTINGS)
    (tmp_path / "plain/manifest.json").unlink()
    (tmp_path / f"plain/data/{source.shards[4]}.parquet").unlink()
    observer = KillsOnTheWay(cluster, None)
    compute_boxes_with_ray(source, localizer, tmp_path / "plain", **SETTINGS, observer=observer)
    assert (observer.plan, observer.written) == ((1, 11), [(source.shards[4], 5, 0)])
    with pytest.raises(CcropError, match="B013"):
        compute_boxes_with_ray(source, lambda: localizer(1), tmp_path / "plain", **SETTINGS)


def test_errors_of_workers_are_told_as_if_there_were_no_ray(cluster, source, tmp_path):
    with pytest.raises(CcropError, match=r"^this model cannot be opened$"):
        compute_boxes_with_ray(source, refuses, tmp_path / "boxes", **SETTINGS)


@pytest.mark.parametrize(("threads", "gpus"), [(64, 0.0), (1, 1.0), (1, 0.5)])
def test_a_worker_that_fits_nowhere_is_told_at_once(cluster, source, tmp_path, threads, gpus):
    made = tmp_path / "boxes"
    said = f"with `threads` {threads} and `gpu_share` {gpus:g}.*without GPUs, set `device` to cpu"
    with pytest.raises(CcropError, match=said):
        compute_boxes_with_ray(source, localizer, made, threads=threads, gpu_share=gpus)
