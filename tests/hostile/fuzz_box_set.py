"""Coverage-guided fuzzing of the box set reader: boxes, problems by rule, or a `CcropError`.

The first byte says which file the others are: a Parquet shard, a WebDataset shard or a manifest.
Needs atheris, which is no requirement: `make fuzz`.
"""

import contextlib
import shutil
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["ccrop_pipeline", "tarfile", "json"]):
    from ccrop_pipeline.boxset import BoxSet, Problem, convert, validate
    from ccrop_pipeline.boxset.shards import load_shard
    from ccrop_pipeline.errors import CcropError
    from ccrop_pipeline.exchange import fixed_boxes
    from ccrop_pipeline.images import Scenes

FOLDER = Path(tempfile.mkdtemp(prefix="ccrop-fuzz-"))
FORMS = (("parquet", "fuzz.parquet"), ("webdataset", "fuzz.boxes.tar"))


def read(data: bytes) -> None:
    """Read the bytes as the file that the first of them names."""
    kind, content = data[0] % 3 if data else 0, data[1:]
    if kind == 2:
        (FOLDER / "parquet/manifest.json").write_bytes(content)
        assert all(isinstance(each, Problem) for each in validate(FOLDER / "parquet"))
        with contextlib.suppress(CcropError):
            for _ in BoxSet.open(FOLDER / "parquet").tables():
                pass
        return
    form, name = FORMS[kind]
    problems: list[Problem] = []
    (FOLDER / name).write_bytes(content)
    table = load_shard(FOLDER / name, form, "0" * 64, problems)
    assert problems or table is not None


def seeds(folder: Path) -> None:
    """Write files of whole box sets to begin with."""
    folder.mkdir(parents=True, exist_ok=True)
    for form, _ in FORMS:
        shutil.rmtree(FOLDER / form, ignore_errors=True)
    fixed_boxes(Scenes(3, size=16), FOLDER / "parquet", "centre")
    convert(FOLDER / "parquet", FOLDER / "webdataset", form="webdataset")
    for kind, (form, _) in enumerate(FORMS):
        (shard,) = (FOLDER / form / "data").iterdir()
        (folder / f"seed-{form}").write_bytes(bytes([kind]) + shard.read_bytes())
    manifest = (FOLDER / "parquet/manifest.json").read_bytes()
    (folder / "seed-manifest").write_bytes(b"\2" + manifest)


if __name__ == "__main__":
    seeds(Path(sys.argv[1]))
    atheris.Setup(sys.argv, read)
    atheris.Fuzz()
