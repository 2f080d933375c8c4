"""Small images and sources of every kind on disk, for the tests of this folder."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

DATA = Path(__file__).parents[2] / "../shared/data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the real images of {DATA} are absent")


def picture(seed: int, form: str = "PNG") -> bytes:
    """Eight by eight pixels of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def tar_of(path: Path, keys: list[str]) -> Path:
    """One PNG and one label a key."""
    members = []
    for i, key in enumerate(keys):
        members += [(f"{key}.png", picture(i)), (f"{key}.cls", str(i % 3).encode())]
    return write_tar(path, members)


def folder_of(root: Path, names: list[str]) -> Path:
    for i, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(i))
    return root


def parquet_of(path: Path, names: list[str | None], **columns: pa.Array) -> Path:
    """A table in the Hugging Face layout with labels 0, 1, 2, 0, …"""
    images = [{"bytes": picture(i), "path": name} for i, name in enumerate(names)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    labels = pa.array([i % 3 for i in range(len(names))])
    pq.write_table(pa.table({"image": pa.array(images, kind), "label": labels, **columns}), path)
    return path


def read_in_worker(index, positions, queue) -> None:
    """Stands here so that a spawned process need not import a test's libraries."""
    queue.put([index.read(i) for i in positions])
