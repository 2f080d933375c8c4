"""Coverage-guided fuzzing of the tar reader: whatever the bytes, samples or a `CcropError`.

Needs atheris, which is no requirement: `make fuzz`.
"""

import contextlib
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["ccrop_pipeline", "tarfile"]):
    from ccrop_pipeline.errors import CcropError
    from ccrop_pipeline.images import Scenes, open_source, pack

FOLDER = Path(tempfile.mkdtemp(prefix="ccrop-fuzz-"))
FILE = FOLDER / "data.tar"


def with_checksums(data: bytes) -> bytes:
    """Put the checksum of every header right, which chance would not in years.

    It is the sum of the bytes of the header with its own eight taken for spaces (POSIX, ustar).
    """
    blocks = [bytearray(data[at : at + 512]) for at in range(0, len(data), 512)]
    for block in blocks:
        if block[257:262] == b"ustar":
            block[148:156] = b" " * 8
            block[148:156] = b"%06o\0 " % sum(block)
    return b"".join(blocks)


def read(data: bytes) -> None:
    """Open the bytes as a tar and read everything."""
    FILE.write_bytes(with_checksums(data))
    with contextlib.suppress(CcropError):
        source = open_source(FILE)
        source.fingerprint()
        for shard in source.shards:
            for sample in source.read(shard):
                assert isinstance(sample.key, str)
                assert isinstance(sample.image, bytes)


def seeds(folder: Path) -> None:
    """Write tars to begin with."""
    folder.mkdir(parents=True, exist_ok=True)
    pack(Scenes(2, size=16), FOLDER / "scenes")  # a folder of its own at every start
    (folder / "scenes.tar").write_bytes((FOLDER / "scenes/data-000000.tar").read_bytes())
    (folder / "empty.tar").write_bytes(bytes(10240))


if __name__ == "__main__":
    seeds(Path(sys.argv[1]))
    atheris.Setup(sys.argv, read)
    atheris.Fuzz()
