"""The images of a source whose object is small, in a tar of their own."""

import io
import tarfile
from pathlib import Path

from ccrop_pipeline.images import Source, open_source, true_boxes


def with_small_objects(source: Source, tar: Path, largest: float) -> Source:
    """Return the images whose true box, the first of several, covers less than so much of them.

    Args:
        source: Tars of images with true boxes.
        tar: Where they are written; one that is there already is used.
        largest: As a share of the image.
    """
    if not tar.exists():
        tar.parent.mkdir(parents=True, exist_ok=True)
        part = tar.with_suffix(".part")
        with tarfile.open(part, "w") as file:
            for shard in source.shards:
                for sample in source.read(shard):
                    x_min, y_min, x_max, y_max = true_boxes(sample.annotation or b"{}")[0]
                    if (x_max - x_min) * (y_max - y_min) < largest:
                        _add(file, f"{sample.key}.jpg", sample.image)
                        _add(file, f"{sample.key}.cls", str(sample.label).encode())
                        _add(file, f"{sample.key}.json", sample.annotation or b"{}")
        part.replace(tar)
    return open_source(tar)


def _add(file: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    file.addfile(member, io.BytesIO(content))
