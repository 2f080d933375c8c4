"""Image formats: by file extension, and by the first bytes of a file."""

from pathlib import PurePosixPath

# Those torchvision.datasets.ImageFolder takes, with GIF and bitmaps of one bit.
IMAGE_EXTENSIONS = frozenset(
    ("jpg", "jpeg", "png", "webp", "bmp", "ppm", "pgm", "pbm", "tif", "tiff", "gif")
)

_MAGIC = (
    (b"\xff\xd8\xff", "jpg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"II*\0", "tif"),
    (b"MM\0*", "tif"),
    (b"BM", "bmp"),
    (b"P1", "pbm"),
    (b"P4", "pbm"),
    (b"P2", "pgm"),
    (b"P5", "pgm"),
    (b"P3", "ppm"),
    (b"P6", "ppm"),
)


def extension_by_content(image: bytes) -> str | None:
    """Return the extension that fits the first bytes, ``None`` if no known format does."""
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "webp"
    return next((extension for magic, extension in _MAGIC if image.startswith(magic)), None)


def extension_by_name(name: str) -> str | None:
    """Return the lower-case image extension of a file name or key, ``None`` without one."""
    extension = PurePosixPath(name).suffix[1:].lower()
    return extension if extension in IMAGE_EXTENSIONS else None
