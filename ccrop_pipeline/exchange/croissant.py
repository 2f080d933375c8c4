"""Croissant metadata of a box set: its files with their hashes, and what each column means.

The format is Croissant 1.1, JSON-LD, whose vocabulary is at
https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html.
"""

import json
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from ccrop_pipeline.boxset import BoxSet
from ccrop_pipeline.boxset.manifest import MANIFEST
from ccrop_pipeline.boxset.shards import DATA
from ccrop_pipeline.errors import SettingError, counted

_EDGE: Final = "edge of the box, from 0 to 1 across the image"
# What docs/format.md, section 4, says of each column, and its type.
_COLUMNS: Final = {
    "key": ("sc:Text", "names the image in its source"),
    "x_min": ("cr:Float32", f"left {_EDGE}"),
    "y_min": ("cr:Float32", f"upper {_EDGE}"),
    "x_max": ("cr:Float32", f"right {_EDGE}, half-open"),
    "y_max": ("cr:Float32", f"lower {_EDGE}, half-open"),
    "width": ("cr:UInt32", "of the stored image in pixels; 0 where not known"),
    "height": ("cr:UInt32", "of the stored image in pixels; 0 where not known"),
    "orientation": ("cr:UInt8", "EXIF orientation, 1 to 8; boxes are of the stored pixels"),
    "status": ("sc:Text", "ok, or empty or unreadable, where the box is the whole image"),
    "image_hash": ("cr:UInt64", "xxh3 (64 bits, seed 0) of the encoded bytes of the image"),
}
_HEATMAP: Final = "what the box was found in, row by row, in [0, 1]"
_CHOICES: Final = "boxes of which one is drawn each time; their union is the box"
# The context that the specification gives for all files alike.
_TERMS: Final = (
    "arrayShape citeAs column containedIn equivalentProperty extract field fileObject fileProperty "
    "fileSet format includes isArray isLiveDataset jsonPath key md5 parentField path recordSet "
    "references regex repeated replace samplingRate separator source subField transform"
)
_CONTEXT: Final[dict[str, Any]] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    **{term: f"cr:{term}" for term in _TERMS.split()},
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
}


def write_croissant(box_set: BoxSet, path: Path) -> None:
    """Write the metadata of a box set in the Parquet form, all files named beside `path`.

    Args:
        box_set: The boxes.
        path: File to write; its name has to be `croissant.json` in the box set's folder in the end.

    Raises:
        SettingError: If the box set has the WebDataset form.
    """
    manifest = box_set.manifest
    if manifest.form != "parquet":
        raise SettingError(
            f"{box_set.folder} has the form {manifest.form}, and Croissant's metadata describe "
            "Parquet. Export the box set as parquet first."
        )
    text = manifest.to_text().encode()
    files = [_file(MANIFEST, "application/json", len(text), manifest.sha256)]
    files += [_file(s.file, "application/x-parquet", s.bytes, s.sha256) for s in manifest.shards]
    shards = {
        "@type": "cr:FileSet",
        "@id": "shards",
        "name": "shards",
        "description": "one Parquet file for each shard of images",
        "encodingFormat": "application/x-parquet",
        "includes": f"{DATA}/*.parquet",
    }
    boxes = {
        "@type": "cr:RecordSet",
        "@id": "boxes",
        "name": "boxes",
        "description": "one row for each image",
        "key": {"@id": "boxes/key"},
        "field": _fields(box_set),
    }
    data = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": f"ccrop-boxes-{manifest.provenance.fingerprint[:12]}",
        "description": (
            f"Boxes of {counted(manifest.rows, 'image')} in a box set of ccrop, format version 1: "
            "normalised x_min, y_min, x_max, y_max, half-open, in the stored pixels without their "
            "EXIF orientation, joined to the images by key. What made them is in manifest.json."
        ),
        "distribution": [*files, shards],
        "recordSet": [boxes],
    }
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _file(name: str, kind: str, size: int, sha256: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": quote(name),
        "name": name.rpartition("/")[2],
        "contentUrl": quote(name),
        "contentSize": f"{size} B",
        "encodingFormat": kind,
        "sha256": sha256,
    }


def _fields(box_set: BoxSet) -> list[dict[str, Any]]:
    fields = [_field(name, kind, meaning) for name, (kind, meaning) in _COLUMNS.items()]
    # Shards without rows may lack the columns that are optional.
    filled = next((entry for entry in box_set.manifest.shards if entry.rows), None)
    if filled is not None:
        table = box_set.read(filled.name)
        if table.heatmap_shape is not None:
            height, width = table.heatmap_shape
            fields.append(_field("heatmap", "cr:Float16", _HEATMAP, f"{height},{width}"))
        if table.choices is not None:
            fields.append(_field("choices", "cr:Float32", _CHOICES, "-1,4"))
    return fields


def _field(name: str, kind: str, meaning: str, shape: str | None = None) -> dict[str, Any]:
    field = {
        "@type": "cr:Field",
        "@id": f"boxes/{name}",
        "name": name,
        "description": meaning,
        "dataType": kind,
        "source": {"fileSet": {"@id": "shards"}, "extract": {"column": name}},
    }
    return field if shape is None else {**field, "isArray": True, "arrayShape": shape}
