"""The EXIF orientation of images: read cheaply, and never in the way of their pixels."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, features

from ccrop_pipeline.images import decode, read_header
from ccrop_pipeline.images.decode import decode_reduced, extension_by_content
from ccrop_pipeline.images.squares import resized_images

TURNS = pytest.mark.parametrize("orientation", range(1, 9))


def exif(value):
    block = Image.Exif()
    block[0x0112] = value
    return block


def picture(width=40, height=30):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def encoded(fmt, image=None, **options):
    out = io.BytesIO()
    (image or picture()).save(out, fmt, **options)
    return out.getvalue()


def jpeg_with(block):
    """A JPEG whose resolution, too, is looked for in its EXIF block."""
    plain = encoded("JPEG")
    assert plain[2:4] == b"\xff\xe0"  # the JFIF segment, of 16 bytes, which is left out
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + plain[20:]


def xmp(value):
    return (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description tiff:Orientation="%d"/>'
        b"</rdf:RDF></x:xmpmeta>" % value
    )


def png_with_exif_last(value):
    """EXIF behind the pixels, where the specification of PNG allows it as well."""
    content = b"eXIf" + exif(value).tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    plain = encoded("PNG")
    return plain[:-12] + chunk + plain[-12:]


KINDS = {
    "JPEG": lambda value: encoded("JPEG", exif=exif(value)),
    "JPEG, XMP": lambda value: encoded("JPEG", xmp=xmp(value)),
    "PNG": lambda value: encoded("PNG", exif=exif(value)),
    "PNG, last": png_with_exif_last,
    "PNG of 16 bits": lambda value: encoded("PNG", Image.new("I;16", (40, 30)), exif=exif(value)),
    "WEBP": lambda value: encoded("WEBP", exif=exif(value)),
    "AVIF": lambda value: encoded("AVIF", exif=exif(value)),
}
if not features.check("avif"):
    del KINDS["AVIF"]


@TURNS
@pytest.mark.parametrize("kind", KINDS)
def test_the_orientation_is_the_one_by_which_pillow_turns(kind, orientation):
    data = KINDS[kind](orientation)
    header = read_header(data)
    assert header == (40, 30, orientation)
    stored = Image.open(io.BytesIO(data))
    turned = ImageOps.exif_transpose(stored)
    sides = header[:2] if orientation < 5 else header[1::-1]
    assert (stored.size, turned.size) == (header[:2], sides)


@TURNS
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_of_a_tiff_the_frame_is_upright(compression, orientation):
    data = encoded("TIFF", tiffinfo={0x0112: orientation}, compression=compression)
    header = read_header(data)
    assert header.orientation == 1
    assert decode(data).size == header[:2] == ((40, 30) if orientation < 5 else (30, 40))


def coloured():
    """Red at the top left, green at the bottom right."""
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[:16, :24], pixels[16:, 24:] = (255, 0, 0), (0, 255, 0)
    return Image.fromarray(pixels)


def are_alike(first, second):
    """The same size, and colours that differ by no more than compression makes of them."""
    pixels = [np.asarray(image, np.float64) for image in (first, second)]
    return pixels[0].shape == pixels[1].shape and np.abs(pixels[0] - pixels[1]).mean() < 3


@TURNS
@pytest.mark.skipif(not features.check("avif"), reason="this Pillow was built without AVIF")
def test_of_an_avif_the_frame_is_the_stored_one(orientation):
    data = encoded("AVIF", coloured(), exif=exif(orientation))
    assert extension_by_content(data) == "avif"
    assert read_header(data) == (48, 32, orientation)
    for pixels in (decode(data), Image.fromarray(decode_reduced(data, 2)[0])):
        assert are_alike(pixels, coloured())


@TURNS
def test_of_a_heic_the_frame_is_upright(orientation):
    pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    data = encoded("HEIF", coloured(), exif=exif(orientation).tobytes(), quality=95)
    assert extension_by_content(data) == "heic"
    plain = Image.open(io.BytesIO(encoded("PNG", coloured(), exif=exif(orientation))))
    upright = ImageOps.exif_transpose(plain)
    assert read_header(data) == (*upright.size, 1)
    for pixels in (decode(data), Image.fromarray(decode_reduced(data, 2)[0])):
        assert are_alike(pixels, upright)


def test_the_thumbnail_in_a_heic_is_never_taken_for_the_image():
    heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    file = heif.from_pillow(picture(800, 600))
    out = io.BytesIO()
    file.save(out, quality=95, thumbnails=[400])
    assert Image.open(io.BytesIO(out.getvalue())).info["thumbnails"]
    assert decode(out.getvalue(), 2).size == (800, 600)


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
def test_without_exif_the_orientation_is_1(fmt):
    assert read_header(encoded(fmt)) == (40, 30, 1)


@pytest.mark.parametrize("value", [0, 9, 255, 65535])
def test_an_orientation_that_does_not_exist_is_none(value):
    assert read_header(encoded("JPEG", exif=exif(value))).orientation == 1


@pytest.mark.slow
def test_a_png_is_not_decoded_for_its_header():
    png = encoded("PNG", picture(2000, 2000))
    assert read_header(png[: len(png) // 2]) == (2000, 2000, 1)


GOOD = exif(6)
GOOD[0x011A] = 72.0  # the resolution, with its unit
GOOD[0x0128] = 2
BLOCK = b"Exif\0\0" + GOOD.tobytes().removeprefix(b"Exif\0\0")


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(6, len(BLOCK) - 1), st.integers(0, 255)), max_size=8),
    st.integers(6, len(BLOCK)),
)
def test_damaged_exif_leaves_an_image_readable(changes, length):
    block = bytearray(BLOCK)
    for place, value in changes:
        block[place] = value
    data = jpeg_with(bytes(block[:length]))
    header = read_header(data)
    assert header[:2] == (40, 30)
    assert header.orientation in range(1, 9)
    assert np.array_equal(np.asarray(decode(data)), np.asarray(decode(encoded("JPEG"))))


def test_exif_for_which_pillow_refuses_the_image_is_passed_over():
    # Two fields of a TIFF: the resolution, a text of one character and no fraction, and its unit.
    fields = struct.pack(">HHI4sHHIH2x", 0x011A, 2, 1, b"7", 0x0128, 3, 1, 2)
    refused = jpeg_with(b"Exif\0\0MM\0*\0\0\0\x08\0\x02" + fields + bytes(4))
    with pytest.raises(Image.UnidentifiedImageError):
        Image.open(io.BytesIO(refused))
    assert read_header(refused) == (40, 30, 1)
    assert decode(refused).size == (40, 30)


def test_batches_have_the_orientation_of_each_image():
    images = [encoded("JPEG", exif=exif(value)) for value in range(1, 9)]
    images[3] = images[3][:100]
    (batch,) = resized_images(images, 8, batch_size=8, threads=2)
    assert batch.orientation.dtype == np.uint8
    assert batch.orientation.tolist() == [1, 2, 3, 1, 5, 6, 7, 8]
    assert batch.sizes.tolist() == [[40, 30] if i != 3 else [0, 0] for i in range(8)]
