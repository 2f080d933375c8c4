import math
from collections import defaultdict

import pytest
import torch

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.probes import Features, KnnSettings, knn_accuracy
from ccrop_pipeline.recipes import load_recipe


def features(count, seed, classes=4):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    centres = torch.randn(classes, 8, generator=torch.Generator().manual_seed(99))
    values = centres[labels] + 1.5 * torch.randn(count, 8, generator=generator)
    return Features(values, labels)


def cosine(a, b):
    product = sum(x * y for x, y in zip(a, b, strict=True))
    return product / math.hypot(*a) / math.hypot(*b)


def plain_accuracy(bank, queries, k, temperature):
    hits = 0
    for query, label in zip(queries.values.tolist(), queries.labels.tolist(), strict=True):
        near = sorted(
            (
                (cosine(query, value), other)
                for value, other in zip(bank.values.tolist(), bank.labels.tolist(), strict=True)
            ),
            reverse=True,
        )
        votes = defaultdict(float)
        for similarity, other in near[:k]:
            votes[other] += math.exp(similarity / temperature)
        hits += max(votes, key=votes.__getitem__) == label
    return hits / len(queries.labels)


# exp(1 / 0.005) is more than a float32 holds.
@pytest.mark.parametrize(
    ("k", "temperature"), [(1, 0.1), (10, 0.07), (1000, 0.5), (10, 0.02), (10, 0.005)]
)
def test_knn_is_the_weighted_vote_counted_by_hand(k, temperature):
    bank, queries = features(120, 0), features(60, 1)
    expected = plain_accuracy(bank, queries, k, temperature)
    assert 0.3 < expected < 1
    settings = KnnSettings(k=k, temperature=temperature)
    assert knn_accuracy(bank, queries, settings) == pytest.approx(expected)


def test_labels_are_names_of_any_size():
    bank, queries = features(120, 0), features(60, 1)
    names = torch.tensor([3, 10**9, 10**10, 10**18])
    named = [Features(part.values, names[part.labels]) for part in (bank, queries)]
    settings = KnnSettings(k=5)
    assert knn_accuracy(*named, settings) == knn_accuracy(bank, queries, settings)


@pytest.mark.parametrize(
    ("images", "voted"),
    [(1, 1), (9, 1), (10, 1), (345, 34), (1999, 199), (2000, 200), (50_000, 200)],
)
def test_few_images_have_few_neighbours_unless_it_is_said(images, voted):
    assert KnnSettings().neighbours(images) == voted
    assert KnnSettings(k=200).neighbours(images) == min(200, images)
    assert load_recipe("simclr", ["probe.k=auto"]).probe == KnnSettings()


def test_by_default_a_tenth_of_few_images_votes():
    bank, queries = features(120, 0), features(60, 1)
    tenth, every = (plain_accuracy(bank, queries, k, 1.0) for k in (12, 120))
    assert tenth != every
    assert knn_accuracy(bank, queries, KnnSettings(temperature=1.0)) == pytest.approx(tenth)


@pytest.mark.parametrize("k", [1, 10, 50, 1000])
def test_a_bank_in_blocks_answers_as_a_whole_one(monkeypatch, k):
    bank, queries, settings = features(120, 0), features(60, 1), KnnSettings(k=k)
    whole = knn_accuracy(bank, queries, settings)
    monkeypatch.setattr("ccrop_pipeline.probes.knn._BANK_AT_ONCE", 32)
    monkeypatch.setattr("ccrop_pipeline.probes.knn._QUERIES_AT_ONCE", 7)
    assert knn_accuracy(bank, queries, settings) == whole


@pytest.mark.parametrize("wrong", [{"every": -1}, {"k": 0}, {"temperature": 0.0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(CcropError, match=f"{next(iter(wrong))} is "):
        KnnSettings(**wrong)
