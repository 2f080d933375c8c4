import io
import os
import struct
import subprocess
import sys
import tarfile
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import functional as F

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images import UnreadableImage, decode, decode_reduced, read_header, stored_size

module = sys.modules["ccrop_pipeline.images.decode"]
DATA = Path(__file__).parents[2] / "../shared/data"


def encoded(image: Image.Image, fmt: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def smooth(width: int, height: int) -> Image.Image:
    return noise(3, 3).resize((width, height), Image.Resampling.BICUBIC)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def png_without_pixels(width: int, height: int) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(b""))


JPEG, PNG, GIF, WEBP = (encoded(smooth(40, 30), fmt) for fmt in ("JPEG", "PNG", "GIF", "WEBP"))


def test_rgb_pixels_are_kept():
    image = noise(17, 9)
    decoded = decode(encoded(image))
    assert decoded.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(decoded), np.asarray(image))


def test_exif_orientation_is_not_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter for viewing
    decoded = decode(encoded(smooth(40, 30), "JPEG", exif=exif))
    assert decoded.getexif()[0x0112] == 6
    np.testing.assert_array_equal(np.asarray(decoded), np.asarray(decode(JPEG)))


def test_grey_of_any_depth():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    expected = np.stack([ramp] * 3, axis=-1)
    for image in (
        Image.fromarray(ramp),
        Image.fromarray(ramp.astype(np.uint16) * 257),
        Image.merge("LA", [Image.fromarray(ramp), Image.new("L", (16, 16), 9)]),
    ):
        np.testing.assert_array_equal(np.asarray(decode(encoded(image))), expected)
    bits = Image.fromarray(ramp > 99)
    assert bits.mode == "1"
    np.testing.assert_array_equal(np.asarray(decode(encoded(bits)))[..., 1], (ramp > 99) * 255)


@pytest.mark.parametrize("depth", [10, 12, 14, 16, 18, 20, 24, 28, 31])
def test_grey_keeps_the_upper_bits_of_the_depth_that_is_used(depth):
    ramp = np.arange(256).reshape(16, 16)
    values = (ramp << (depth - 8)) + 3
    kinds = [(np.float32, "TIFF"), (np.int32, "TIFF")]
    kinds += [(np.uint16, "PNG"), (np.uint16, "TIFF")] if depth <= 16 else []
    for kind, form in kinds:
        pixels = np.asarray(decode(encoded(Image.fromarray(values.astype(kind)), form)))
        np.testing.assert_array_equal(pixels, np.stack([ramp] * 3, axis=-1))


def test_grey_in_floats_and_with_a_sign():
    ramp = np.arange(256).reshape(16, 16)
    for values in (ramp / np.float32(255), ramp - np.float32(100), np.int32(2**20) * (ramp - 9)):
        image = Image.fromarray(values.astype(np.int32 if values.dtype.kind == "i" else np.float32))
        np.testing.assert_array_equal(np.asarray(decode(encoded(image, "TIFF")))[..., 1], ramp)
    mask = Image.fromarray((ramp > 99).astype(np.float32))
    np.testing.assert_array_equal(
        np.asarray(decode(encoded(mask, "TIFF")))[..., 0], (ramp > 99) * 255
    )
    holes = (ramp / 255).astype(np.float32)
    holes[0, :3] = np.nan, np.inf, -np.inf
    ramp[0, :3] = 0
    decoded = decode(encoded(Image.fromarray(holes), "TIFF"))
    np.testing.assert_array_equal(np.asarray(decoded)[..., 0], ramp)
    for level in (0, 0.5, -3):
        flat = Image.fromarray(np.full((4, 4), level, np.float32))
        assert np.ptp(np.asarray(decode(encoded(flat, "TIFF")))) == 0


def test_unsigned_32_bits_of_a_tiff():
    ramp = (np.arange(256, dtype=np.uint32) << 24).reshape(16, 16)
    data = encoded(Image.fromarray(ramp.view(np.int32)), "TIFF")
    signed, unsigned = (struct.pack("<HHIH", 339, 3, 1, kind) for kind in (2, 1))
    assert data.count(signed) == 1
    data = data.replace(signed, unsigned)
    assert np.asarray(decode(data))[..., 0].tolist() == (ramp >> 24).tolist()


def test_alpha_is_dropped_and_palettes_are_looked_up():
    image = noise(8, 8)
    translucent = image.copy()
    translucent.putalpha(77)
    np.testing.assert_array_equal(np.asarray(decode(encoded(translucent))), np.asarray(image))
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((1, 0), 1)
    for options in ({}, {"transparency": 1}, {"transparency": bytes([255, 40])}):
        decoded = decode(encoded(palette, **options))
        assert np.asarray(decoded).tolist() == [[[10, 20, 30], [200, 100, 50]]]


def test_cmyk_jpeg():
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    decoded = decode(encoded(image, "JPEG", quality=100))
    assert np.abs(np.asarray(decoded).astype(int) - (255, 0, 0)).max() <= 3


def test_the_first_frame_counts():
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    for fmt in ("GIF", "TIFF"):
        data = encoded(frames[0], fmt, save_all=True, append_images=frames[1:])
        assert decode(data).getpixel((4, 4)) == (255, 0, 0)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no image",
        JPEG[:20],
        JPEG[: len(JPEG) // 2],
        PNG[: len(PNG) // 2],
        JPEG[10:],
        png_without_pixels(0, 5),
        png_without_pixels(20, 20),
    ],
)
def test_unreadable(data):
    with pytest.raises(UnreadableImage, match=f"cannot decode {len(data)} bytes") as raised:
        decode(data)
    assert isinstance(raised.value, CcropError)


def test_a_size_that_must_be_an_attack():
    with pytest.raises(UnreadableImage, match="3600000000 pixels"):
        decode(png_without_pixels(60_000, 60_000))


@pytest.mark.parametrize("form", ["PNG", "TIFF", "GIF", "WEBP", "JPEG2000"])
def test_more_pixels_than_the_bytes_can_hold_are_not_decoded(form, monkeypatch):
    """On a small scale: flat colour of 1,000 x 1,000 pixels, where 100,000 are always allowed."""
    options = {"compression": "tiff_lzw"} if form == "TIFF" else {}
    flat = encoded(Image.new("L", (1000, 1000)), form, **options)
    assert decode(flat).size == (1000, 1000)
    monkeypatch.setattr(module, "_ALWAYS_ALLOWED", 100_000)
    for function in (decode, stored_size, lambda data: decode_reduced(data, 2)):
        with pytest.raises(UnreadableImage, match="1000 x 1000 pixels are too many"):
            function(flat)
    assert decode(encoded(noise(500, 400), "JPEG")).size == (500, 400)


def test_deep_grey_costs_a_few_bytes_a_pixel():
    deep = np.random.default_rng(0).integers(0, 1 << 16, (1000, 1000), dtype=np.uint16)
    data = encoded(Image.fromarray(deep))
    tracemalloc.start()
    image = decode(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(np.asarray(image)[..., 1], deep >> 8)
    assert peak < 10 * deep.size


@pytest.mark.parametrize("head", [b"%!PS-Adobe-3.0 EPSF-3.0", b"\xc5\xd0\xd3\xc6" + bytes(26)])
def test_no_other_program_is_started_for_an_image(tmp_path, monkeypatch, head):
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    page = head + b"\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n"
    for function in (decode, read_header, stored_size):
        with pytest.raises(UnreadableImage):
            function(page)
    assert not (tmp_path / "started").exists()


def decodes_or_is_unreadable(data: bytes) -> None:
    try:
        image = decode(data)
    except UnreadableImage:
        return
    assert image.mode == "RGB"
    image.getpixel((image.width - 1, image.height - 1))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([JPEG, PNG, GIF, WEBP]), st.data())
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damage_raises_nothing_else(data, source):
    damaged = bytearray(data)
    for _ in range(source.draw(st.integers(1, 8))):
        damaged[source.draw(st.integers(0, len(data) - 1))] = source.draw(st.integers(0, 255))
    decodes_or_is_unreadable(bytes(damaged[: source.draw(st.integers(0, len(data)))]))
    decodes_or_is_unreadable(bytes(damaged))


@pytest.fixture(params=["simplejpeg", "Pillow alone"])
def decoder(request, monkeypatch):
    if request.param == "Pillow alone":
        monkeypatch.setattr(module, "simplejpeg", None)
    else:
        pytest.importorskip("simplejpeg")
    return request.param


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "GIF", "WEBP"])
def test_the_stored_size_is_read_from_the_header(decoder, fmt):
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {} if fmt == "GIF" else {"exif": exif}
    data = encoded(smooth(41, 30), fmt, **options)
    assert stored_size(data) == (41, 30)
    if fmt != "WEBP":  # whose decoder wants to see the whole file first
        assert stored_size(data[:-9]) == (41, 30)


@pytest.mark.parametrize("data", [b"", b"no image", JPEG[:20], JPEG[10:]])
def test_without_a_header_there_is_no_size(decoder, data):
    with pytest.raises(UnreadableImage, match=f"cannot decode {len(data)} bytes"):
        stored_size(data)


def test_a_jpeg_of_a_size_that_must_be_an_attack(decoder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    for function in (stored_size, lambda data: decode_reduced(data, 1)):
        with pytest.raises(UnreadableImage, match="1200 pixels"):
            function(JPEG)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 67),
    st.integers(1, 67),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([0, 1, 2]),
    st.booleans(),
)
@example(2, 3, 4, 0, False)  # Pillow would halve what is to be quartered
def test_a_reduced_jpeg_is_the_mean_of_its_pixels(width, height, reduction, subsampling, fast):
    kept, module.simplejpeg = module.simplejpeg, module.simplejpeg if fast else None
    try:
        ramp = noise(2, 2).point(lambda value: 100 + value // 4)
        ramp = ramp.resize((width, height), Image.Resampling.BILINEAR)
        data = encoded(ramp, "JPEG", quality=95, subsampling=subsampling)
        pixels, made = decode_reduced(data, reduction)
    finally:
        module.simplejpeg = kept
    large = min(width, height) >= 24
    assert made == reduction or not large
    rows, columns = -(-height // made), -(-width // made)
    assert pixels.shape == (rows, columns, 3)
    full = np.asarray(decode(data)).astype(float)
    means = np.zeros(pixels.shape)
    for row in range(rows):
        for column in range(columns):
            block = full[row * made :][:made, column * made :][:, :made]
            means[row, column] = block.mean((0, 1))
    if large:  # the ramp is smooth, and but at the last blocks next to nothing is left out
        assert np.abs(pixels - means)[:-2, :-2].mean() < 3


@pytest.mark.parametrize(
    "data",
    [
        encoded(noise(40, 32)),
        encoded(Image.new("CMYK", (40, 32), (0, 255, 255, 0)), "JPEG", quality=100),
        encoded(smooth(40, 32).convert("L"), "JPEG"),
        encoded(smooth(40, 32), "JPEG", progressive=True) + b"trailing bytes",
    ],
)
@pytest.mark.parametrize("reduction", [1, 2])
def test_other_files_are_decoded_too_and_perhaps_in_full(decoder, data, reduction):
    pixels, made = decode_reduced(data, reduction)
    assert made in (1, reduction)
    assert pixels.shape == (32 // made, 40 // made, 3)
    full = np.asarray(decode(data)).astype(float)
    expected = full.reshape(32 // made, made, 40 // made, made, 3).mean((1, 3))
    assert np.abs(pixels - expected).mean() < 4


def test_the_decoders_agree_bit_for_bit_or_nearly(monkeypatch):
    data = encoded(smooth(123, 77), "JPEG", quality=92)
    ours, _ = decode_reduced(data, 1)
    assert np.abs(ours.astype(int) - np.asarray(decode(data))).max() <= 1


@pytest.mark.parametrize("data", [b"", JPEG[: len(JPEG) // 2], PNG[: len(PNG) // 2]])
def test_what_cannot_be_decoded_whole_is_unreadable_in_part_as_well(decoder, data):
    with pytest.raises(UnreadableImage, match=f"cannot decode {len(data)} bytes"):
        decode_reduced(data, 2)


def test_real_photographs():
    shards = sorted((DATA / "objects-webdataset").glob("*.tar"))
    if not shards:
        pytest.skip(f"no real images under {DATA}")
    with tarfile.open(shards[0]) as tar:
        names = [name for name in tar.getnames() if name.endswith(".jpg")][:10]
        images = [tar.extractfile(name).read() for name in names]
    for data in images:
        decoded = decode(data)
        assert decoded.size == Image.open(io.BytesIO(data)).size
        tensor = F.pil_to_tensor(decoded)
        assert tensor.shape[0] == 3
        assert tensor.to(torch.float32).std() > 5


def test_a_jpeg_of_thousands_of_scans_is_refused_before_it_is_decoded():
    # 240 kB, which took 12 seconds
    made = encoded(Image.new("L", (500, 375)), "JPEG", progressive=True)
    scan = made[made.rindex(b"\xff\xda") : -2]
    for odd in (b"", b"\xff", b"x"):  # between two segments; Pillow takes no `x` there
        sound, bomb = (made[:20] + odd + made[20:-2] + scan * n + made[-2:] for n in (0, 20_000))
        assert decode_reduced(sound, 1)[0].shape == (375, 500, 3)
        for read in (decode, read_header, lambda image: decode_reduced(image, 1)):
            with pytest.raises(
                UnreadableImage, match="cannot decode" if odd == b"x" else "100 scans"
            ):
                read(bomb)


@pytest.mark.parametrize("thumbnails", [0, 200])
def test_marks_of_scans_in_a_sequential_jpeg_are_no_scans(thumbnails):
    image = noise(40, 30)
    made = encoded(image, "JPEG", quality=90)
    comment = b"\xff\xda" * thumbnails
    segment = b"\xff\xfe" + (2 + len(comment)).to_bytes(2, "big") + comment
    got, _ = decode_reduced(made[:2] + segment + made[2:], 1)
    np.testing.assert_array_equal(got, decode_reduced(made, 1)[0])


def test_a_pillow_that_knows_no_avif_is_not_asked_for_it():
    code = """
from PIL import features
features.modules.pop("avif", None)
from ccrop_pipeline.images.decode import IMAGE_EXTENSIONS
assert "avif" not in IMAGE_EXTENSIONS
"""
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], check=True)
