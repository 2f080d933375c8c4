import math
from collections import defaultdict

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.localize import Encoder, build_backbone
from ccrop_pipeline.sources import Sample, Scenes, open_source, pack
from ccrop_pipeline.train import ProbeSettings
from ccrop_pipeline.train.probe import Features, embed, held_out, knn_accuracy, labelled


def features(count, seed, classes=4):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    centres = torch.randn(classes, 8, generator=torch.Generator().manual_seed(99))
    values = centres[labels] + 1.5 * torch.randn(count, 8, generator=generator)
    return Features(F.normalize(values), labels)


def plain_accuracy(bank, queries, k, temperature):
    hits = 0
    for query, label in zip(queries.values.tolist(), queries.labels.tolist(), strict=True):
        near = sorted(
            ((sum(a * b for a, b in zip(query, value, strict=True)), other)
            for value, other in zip(bank.values.tolist(), bank.labels.tolist(), strict=True)),
            reverse=True,
        )  # fmt: skip
        votes = defaultdict(float)
        for similarity, other in near[:k]:
            votes[other] += math.exp(similarity / temperature)
        hits += max(votes, key=votes.__getitem__) == label
    return hits / len(queries.labels)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.1), (10, 0.07), (1000, 0.5)])
def test_knn_is_the_weighted_vote_counted_by_hand(k, temperature):
    bank, queries = features(120, 0), features(60, 1)
    expected = plain_accuracy(bank, queries, k, temperature)
    assert 0.3 < expected < 1
    settings = ProbeSettings(k=k, temperature=temperature)
    assert knn_accuracy(bank, queries, settings) == pytest.approx(expected)


def test_features_are_the_backbones_own_for_the_right_rows(tmp_path):
    image = [sample.image for sample in Scenes(6, size=32).read("train-000000")]
    samples = [
        Sample("a", image[0], 3),
        Sample("b", image[1], None),
        Sample("c", b"broken", 1),
        Sample("d", image[2], 2),
    ]
    pack(samples, tmp_path / "tars")
    source = open_source(tmp_path / "tars")
    torch.manual_seed(0)
    backbone = build_backbone("small").eval()
    found = embed(labelled(source.index(), "here"), Encoder(backbone, backbone.layer, 32))
    assert found.labels.tolist() == [3, 2]
    assert found.values.norm(dim=1).tolist() == pytest.approx([1, 1])
    assert not torch.equal(found.values[0], found.values[1])


def test_held_out_images_are_a_sixth_and_none_of_the_bank():
    images = labelled(Scenes(1200, size=16).index(), "scenes")
    bank, queries = held_out(images)
    assert sorted(np.concatenate([bank.rows, queries.rows])) == list(range(1200))
    assert 140 < len(queries.rows) < 260


def test_no_label_is_an_error(tmp_path):
    image = next(Scenes(1, size=32).read("train-000000")).image
    pack([Sample("a", image, None)], tmp_path / "tars")
    with pytest.raises(CcropError, match="has a label"):
        labelled(open_source(tmp_path / "tars").index(), "here")
