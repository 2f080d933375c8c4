"""Names of images in tars, and their headers, without what lets a small one take hours."""

import re
import tarfile
from typing import Any

BOX_TAR = ".boxes.tar"  # the end of names of shards of boxes, which are beside those of images
LONGEST_KEY = 1024  # characters; stores of S3 take no longer names either
# Unicode's control characters (Cc), and halves of surrogate pairs, which UTF-8 cannot hold.
NOT_IN_KEYS = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
MANY_DIGITS = re.compile(rb"\d{%d}" % (LONGEST_KEY + 1))
# What makes a file an image by its name. Boxes are joined by this list: see docs/format.md.
IMAGE_ENDINGS = frozenset(
    (
        *("jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "gif", "tif", "tiff"),
        *("ppm", "pgm", "pbm", "pnm", "jp2", "j2k", "jpx", "avif", "heic", "heif", "hif"),
    )
)


def name_in_tar(key: str) -> str:
    """Return the key of an image in the tars of its folder, which `pack` makes.

    The image ending goes, since the member's own follows; other dots in the last part become `_`,
    since WebDataset ends a key at the first of them. A key from a tar stays as it is.
    """
    folder, slash, name = key.lstrip("/").rpartition("/")
    stem, _, ending = name.rpartition(".")
    stem = stem if stem and ending.lower() in IMAGE_ENDINGS else name
    return folder + slash + stem.replace(".", "_") if name else key


class TarHeader(tarfile.TarInfo):
    """A header whose PAX records hold no digits beyond measure.

    Up to Python 3.12.5, tarfile searches records in the square of the digits that follow each
    other (CVE-2024-6232): 70,000 take half a minute, a megabyte two hours.
    """

    def _proc_pax(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        file: Any = tar.fileobj
        tar.fileobj = _FewDigits(file)
        try:
            header: tarfile.TarInfo = super()._proc_pax(tar)  # type: ignore[misc]
        finally:
            tar.fileobj = file
        return header


class _FewDigits:
    """A file that is read by blocks, none of which may hold many digits in a row."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        block: bytes = self._file.read(size)
        if MANY_DIGITS.search(block):
            raise tarfile.ReadError(f"a header has more than {LONGEST_KEY} digits in a row")
        return block

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
