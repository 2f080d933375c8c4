"""Read a box set with pyarrow alone: python read_boxes_with_pyarrow.py BOXES.

Prints what made the boxes, how they are distributed and the first few, in pixels.
"""

import hashlib
import json
import sys
from pathlib import Path

import pyarrow.parquet as pq


def main(folder: Path) -> None:
    """Print a summary of the box set in a folder."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    if (manifest["format"], manifest["version"]) != ("ccrop-boxes", 1):
        sys.exit(f"{folder} is not a box set of version 1")
    if manifest["form"] != "parquet":
        sys.exit(f"{folder} is in the {manifest['form']} form, and this example reads Parquet")
    made_by = json.loads(manifest["provenance"])
    encoder = made_by["encoder"]
    print("made by:", f"{encoder['name']} {encoder['layer']}" if encoder else made_by["rule"])
    found = manifest["statistics"]
    print("status: ", found["counts"])
    if manifest["rows"]:
        print(f"boxes:   {manifest['rows']}, mean share of the image {found['mean_area']:.3f}")

    for shard in manifest["shards"]:
        path = folder / shard["file"]
        # The fingerprint is the hash of the text that every shard carries.
        text = pq.read_metadata(path).metadata[b"ccrop"]
        if hashlib.sha256(text).hexdigest() != manifest["fingerprint"]:
            sys.exit(f"{path} belongs to another box set")

    # Any reader of Parquet opens the whole folder, such as `pandas.read_parquet`.
    table = pq.read_table(folder / "data")
    for row in table.slice(0, 5).to_pylist():
        # Half-open: the pixels of the box are left <= x < right and top <= y < bottom.
        left, right = row["x_min"] * row["width"], row["x_max"] * row["width"]
        top, bottom = row["y_min"] * row["height"], row["y_max"] * row["height"]
        print(f"{row['key']}: x {left:.1f} to {right:.1f}, y {top:.1f} to {bottom:.1f}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
