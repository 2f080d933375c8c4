"""From encoded bytes to pixels."""

import io
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, features
from PIL.JpegImagePlugin import JpegImageFile

from ccrop_pipeline.base.tars import IMAGE_ENDINGS
from ccrop_pipeline.errors import SourceError, cause

try:
    import simplejpeg
except ImportError:  # Pillow does it, at half the speed
    simplejpeg = None

try:
    import pillow_heif
except ImportError:
    pillow_heif = None
else:
    pillow_heif.register_heif_opener()

_EXIF = b"Exif\0\0"
# What may hold the orientation of a PNG, before its pixels or after them.
_PNG_CHUNKS = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
HEIF_EXTENSIONS = ("heic", "heif", "hif")
HEIF_NEEDS = "readable with `pip install pillow-heif`"
# Those torchvision.datasets.ImageFolder takes, with GIF, bitmaps of one bit, other names of JPEG,
# JPEG 2000, and what Pillow reads where it was built or extended for it.
IMAGE_EXTENSIONS = IMAGE_ENDINGS.difference(
    # Pillow before 11.3 would warn that it does not know the name.
    () if "avif" in features.modules and features.check("avif") else ("avif",),
    () if pillow_heif else HEIF_EXTENSIONS,
)

# Progressive JPEGs have ten scans, some twenty. Each takes as long as the pixels, for few bytes.
_MOST_SCANS = 100
_SEQUENTIAL, _START_OF_SCAN = (b"\xc0", b"\xc1", b"\xc9"), b"\xda"  # ITU-T T.81, table B.1

# Pillow opens more, and starts Ghostscript for one of them. HEIF needs a plugin.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF", "GIF", "JPEG2000", "AVIF", "HEIF")
# Larger images need a byte for each so many pixels: flat colour takes no more, photographs less.
_ALWAYS_ALLOWED = 1 << 25  # pixels
_PIXELS_A_BYTE = 64

BEGINNING = 32  # bytes of a file by which its format is told
_MAGIC = (
    (b"\xff\xd8\xff", "jpg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"II*\0", "tif"),
    (b"MM\0*", "tif"),
    (b"BM", "bmp"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "jp2"),
    (b"\xff\x4f\xff\x51", "j2k"),
    (b"P1", "pbm"),
    (b"P4", "pbm"),
    (b"P2", "pgm"),
    (b"P5", "pgm"),
    (b"P3", "ppm"),
    (b"P6", "ppm"),
)


_DEPTHS = (8, 10, 12, 14, 16, 18, 20, 24, 28, 31, 32)  # bits of grey
_SAMPLE_FORMAT = 339  # tag of TIFF 6.0: 1 unsigned, 2 signed, 3 floating point
# Brands of the ISO base media file format (ISO/IEC 14496-12), which AVIF and HEIF share.
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "avif"),
    **dict.fromkeys(
        (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "heic"
    ),
}


class UnreadableImage(SourceError):  # noqa: N818 - it names what was met, as its readers say it
    """The bytes are no image, a damaged one, or one too large to be meant."""


def decode(image: bytes, reduction: int = 1) -> Image.Image:
    """Decode an image into its image frame: the stored pixels, EXIF orientation not applied.

    Alpha is dropped, and of several frames the first one counts. Of grey of more than eight bits,
    or in floats, the upper eight bits are kept, of the least depth in 8, 10, 12, 14, 16, 24 and 32
    that its greatest value needs.

    Args:
        image: Bytes of a JPEG, PNG, WebP, BMP, PPM, TIFF, GIF, JPEG 2000, AVIF or HEIF file.
        reduction: 2 or 4 to let a JPEG be decoded at a half or a quarter of its size, where the
            file allows it.

    Returns:
        The image in mode RGB, fully loaded.

    Raises:
        UnreadableImage: If the bytes cannot be decoded whole, or the size is taken for an attack:
            by Pillow (twice `PIL.Image.MAX_IMAGE_PIXELS`), or because there are fewer bytes than
            such an image takes; or it is a JPEG of more than a hundred scans.
    """
    # Pillow's plugins raise whatever a damaged file makes them stumble over (ValueError,
    # SyntaxError, struct.error, IndexError ...): nothing narrower holds the promise above.
    try:
        loaded = _open(image)
        # pillow-heif would take a thumbnail that the file brings, whatever it shows.
        if reduction > 1 and loaded.mode == "RGB" and isinstance(loaded, JpegImageFile):
            least = max(1, loaded.width // reduction), max(1, loaded.height // reduction)
            loaded.draft("RGB", least)
        loaded.load()
        return _to_rgb(loaded)
    except Exception as error:
        raise _unreadable(image, error) from error


def _open(image: bytes) -> Image.Image:
    try:
        opened = Image.open(io.BytesIO(image), formats=_formats())
    except Exception:
        # Pillow refuses some JPEGs for a damaged EXIF block, which is no part of their pixels.
        without_exif = image.replace(_EXIF, bytes(len(_EXIF)))
        if without_exif == image:
            raise
        opened = Image.open(io.BytesIO(without_exif), formats=_formats())
    _expect_bytes_for(*opened.size, image)
    if _has_many_scans(image):
        raise ValueError(f"a JPEG of more than {_MOST_SCANS} scans")
    return opened


def _formats() -> list[str]:
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _expect_bytes_for(width: int, height: int, image: bytes) -> None:
    pixels = width * height
    if pixels > _ALWAYS_ALLOWED and pixels > _PIXELS_A_BYTE * len(image):
        raise ValueError(f"{width} x {height} pixels are too many for so few bytes")


def _has_many_scans(image: bytes) -> bool:
    """Tell whether a JPEG has more scans than any that is meant to be seen."""
    if not image.startswith(b"\xff\xd8"):
        return False
    at, components = 2, b""
    while image[at : at + 1] == b"\xff":
        kind, size = image[at + 1 : at + 2], int.from_bytes(image[at + 2 : at + 4], "big")
        if kind == _START_OF_SCAN and image[at + 4 : at + 5] == components:
            return False  # all of a sequential image is in its first scan
        if kind == _START_OF_SCAN:
            break
        if kind in _SEQUENTIAL:
            components = image[at + 9 : at + 10]
        at += 2 + size
    return image.count(b"\xff" + _START_OF_SCAN, at) > _MOST_SCANS


class ImageHeader(NamedTuple):
    """What is known of an image before it is decoded.

    Attributes:
        width: Of the stored image, in pixels.
        height: Of the stored image, in pixels.
        orientation: EXIF orientation, 1 to 8; 1 where none is given.
    """

    width: int
    height: int
    orientation: int


def read_header(image: bytes) -> ImageHeader:
    """Read size and EXIF orientation of an image without decoding it.

    The orientation is 1 for TIFF and HEIF files: Pillow and pillow-heif turn them as they decode
    them.

    Args:
        image: Bytes of a JPEG, PNG, WebP, BMP, PPM, TIFF, GIF, JPEG 2000, AVIF or HEIF file.

    Raises:
        UnreadableImage: If there is no header to be read, or the size is taken for an attack.
    """
    try:
        opened = _open(image)
    except Exception as error:
        raise _unreadable(image, error) from error
    return ImageHeader(*opened.size, _orientation(opened, image))


def _orientation(opened: Image.Image, image: bytes) -> int:
    # Pillow would decode all of a PNG to look for EXIF after the pixels.
    bare = opened.format == "PNG" and not any(name in image for name in _PNG_CHUNKS)
    if bare or opened.format in ("TIFF", "HEIF"):
        return 1
    try:
        found: Any = opened.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # whatever a damaged block makes Pillow stumble over
        return 1
    return int(found) if found in range(1, 9) else 1


def stored_size(image: bytes) -> tuple[int, int]:
    """Read the size of an image from its header, faster than `read_header` does for a JPEG.

    Args:
        image: Bytes of a JPEG, PNG, WebP, BMP, PPM, TIFF, GIF, JPEG 2000, AVIF or HEIF file.

    Returns:
        Width and height in pixels, of the stored image.

    Raises:
        UnreadableImage: If there is no header to be read, or the size is taken for an attack.
    """
    if simplejpeg is not None:
        try:
            height, width, _, _ = simplejpeg.decode_jpeg_header(image)
        except ValueError:  # not a JPEG, or not one of its own kind: Pillow has the last word
            pass
        else:
            if width * height <= min(_ALWAYS_ALLOWED, Image.MAX_IMAGE_PIXELS or _ALWAYS_ALLOWED):
                return width, height
    try:
        return _open(image).size
    except Exception as error:
        raise _unreadable(image, error) from error


def decode_reduced(image: bytes, reduction: int) -> tuple[NDArray[np.uint8], int]:
    """Decode an image, a JPEG at a fraction of its size if that is wanted.

    A JPEG decoder can leave out the high frequencies of its blocks and so decode straight to a
    half or a quarter of the size, in about half the time. Pixel i then covers the pixels
    [i * reduction, (i + 1) * reduction) of the stored image.

    Args:
        image: Bytes of a JPEG, PNG, WebP, BMP, PPM, TIFF, GIF, JPEG 2000, AVIF or HEIF file.
        reduction: 1, 2 or 4; other formats than JPEG are always decoded in full.

    Returns:
        Pixels, uint8 (ceil(height / reduction), ceil(width / reduction), 3), and the reduction
        that was made.

    Raises:
        UnreadableImage: If the image cannot be decoded, see `decode`.
    """
    width, height = stored_size(image)
    reduced = -(-width // reduction), -(-height // reduction)
    if simplejpeg is not None and simplejpeg.is_jpeg(image) and not _has_many_scans(image):
        try:
            pixels = simplejpeg.decode_jpeg(image, min_width=reduced[0], min_height=reduced[1])
            if pixels.shape[1::-1] == reduced:
                return pixels, reduction
        except ValueError:  # damaged, or in four colours: Pillow has the last word
            pass
    decoded = decode(image, reduction)
    if decoded.size == reduced:
        return np.asarray(decoded), reduction
    # Pillow reduces by less where one side would vanish: then nothing is gained by reducing.
    whole = decoded if decoded.size == (width, height) else decode(image)
    return np.asarray(whole), 1


def _unreadable(image: bytes, error: Exception) -> UnreadableImage:
    return UnreadableImage(
        f"cannot decode {len(image)} bytes as an image: {cause(error)}; "
        "re-create the file or leave it out."
    )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith(("I", "F")):
        # Pillow would clip them at 255, which turns nearly all of 16-bit grey white.
        return Image.fromarray(_in_eight_bits(_grey(image))).convert("RGB")
    if "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def _grey(image: Image.Image) -> NDArray[Any]:
    grey = np.asarray(image)
    sample_format = getattr(image, "tag_v2", {}).get(_SAMPLE_FORMAT, (1,))
    # Pillow has no mode of unsigned 32 bits.
    if grey.dtype == np.int32 and sample_format in (1, (1,)):
        return grey.view(np.uint32)
    return np.nan_to_num(grey, nan=0, posinf=0, neginf=0) if grey.dtype.kind == "f" else grey


def _in_eight_bits(grey: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale grey by the depth that its own values show.

    Files do not tell how many of their bits are used: cameras and scanners write 10, 12 or 14 of
    16, and floats are in [0, 1] or as integers of any depth. With values below zero, the least
    becomes black and the greatest white.
    """
    low, high = float(grey.min()), float(grey.max())
    depth = next((depth for depth in _DEPTHS if high < 2**depth), None)
    if low < 0 or depth is None:
        scale = 255 / (high - low) if high > low else 0.0
        scaled = np.rint((grey.astype(np.float64) - low) * scale)
    elif grey.dtype.kind != "f":
        scaled = grey >> (depth - 8)
    else:
        scaled = np.rint(grey * 255) if high <= 1 else grey / 2.0 ** (depth - 8)
    return scaled.astype(np.uint8)


def extension_by_content(image: bytes) -> str | None:
    """Return the extension that fits the first bytes, `None` if no known format does."""
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "webp"
    if image[4:8] == b"ftyp":
        extension = _BRANDS.get(image[8:12])
        return extension if extension in IMAGE_EXTENSIONS else None
    return next((extension for magic, extension in _MAGIC if image.startswith(magic)), None)


def extension_by_name(name: str) -> str | None:
    """Return the lower-case image extension of a file name or key, `None` without one."""
    extension = PurePosixPath(name).suffix[1:].lower()
    return extension if extension in IMAGE_EXTENSIONS else None
