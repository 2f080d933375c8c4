"""From one form of the box set to the other."""

from ccrop_pipeline.boxset.folder import Location
from ccrop_pipeline.boxset.manifest import Manifest, write_manifest
from ccrop_pipeline.boxset.reader import BoxSet
from ccrop_pipeline.boxset.shards import shard_is_complete, write_shard


def convert(folder: Location, out: Location, form: str) -> Manifest:
    """Write a box set again in another form, with the same rows and the same provenance.

    After a kill the same call continues. Parquet to WebDataset and back gives the same bytes
    with the same version of pyarrow.

    Args:
        folder: The box set: a local path, or an address that fsspec knows.
        out: Folder of the new one, either as well.
        form: `parquet` or `webdataset`.

    Returns:
        The new manifest.

    Raises:
        CcropError: If `folder` holds no complete box set, `out` holds something else, or
            a key cannot be kept by WebDataset.
        ValueError: If the form is not known.
    """
    boxes = BoxSet.open(folder)
    provenance = boxes.manifest.provenance
    names = [entry.name for entry in boxes.manifest.shards]
    for name in names:
        if not shard_is_complete(out, name, provenance, form):
            write_shard(out, name, boxes.read(name), provenance, form)
    return write_manifest(out, names, provenance, form)
