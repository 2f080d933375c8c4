"""Some images of a source, to see what they are like."""

from collections.abc import Iterator
from itertools import chain, islice

from ccrop_pipeline.images.source import Sample, Source


def spread_samples(source: Source, most: int) -> Iterator[Sample]:
    """Yield some images: evenly spread over a source, the first where it is read in order."""
    if not source.random_access:
        yield from islice(chain.from_iterable(map(source.read, source.shards)), most)
        return
    index = source.index()
    for number in range(min(most, len(index))):
        place = number * len(index) // min(most, len(index))
        label = int(index.labels[place])
        yield Sample(index.keys[place], index.read(place), None if label < 0 else label)
