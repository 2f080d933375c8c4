import subprocess
import sys

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from ccrop_pipeline.crops import PHOTOMETRIC, WINDOW, key_hash, uniforms
from ccrop_pipeline.crops.randomness import philox4x32

# Counter, key and answer of philox4x32-10 in kat_vectors of the Random123 library.
KNOWN_ANSWERS = [
    (
        (0, 0, 0, 0),
        (0, 0),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    (
        (0xFFFFFFFF,) * 4,
        (0xFFFFFFFF,) * 2,
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def slow_philox(counter: list[int], key: list[int]) -> list[int]:
    for turn in range(10):
        high0, low0 = divmod(0xD2511F53 * counter[0], 2**32)
        high1, low1 = divmod(0xCD9E8D57 * counter[2], 2**32)
        k0 = (key[0] + turn * 0x9E3779B9) % 2**32
        k1 = (key[1] + turn * 0xBB67AE85) % 2**32
        counter = [high1 ^ counter[1] ^ k0, low1, high0 ^ counter[3] ^ k1, low0]
    return counter


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_known_answers(counter, key, answer):
    words = tuple(np.array([word], np.uint64) for word in counter)
    assert tuple(int(word[0]) for word in philox4x32(words, key)) == answer
    assert tuple(slow_philox(list(counter), list(key))) == answer


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**64 - 1),
    epoch=st.integers(0, 2**32 - 1),
    key=st.integers(0, 2**64 - 1),
    view=st.integers(0, 2**16 - 1),
    stream=st.integers(0, 255),
    count=st.integers(0, 30),
)
def test_uniforms_are_the_documented_counter(seed, epoch, key, view, stream, count):
    expected = []
    for block in range(8):
        counter = [key % 2**32, key >> 32, epoch, view << 16 | stream << 8 | block]
        expected += slow_philox(counter, [seed % 2**32, seed >> 32])
    drawn = uniforms(seed, epoch, np.array([key], np.uint64), view, stream, count)
    assert drawn.shape == (1, count)
    assert drawn[0].tolist() == [(2 * word + 1) / 2**33 for word in expected[:count]]


def test_key_hash_is_xxh3_of_utf8():
    # The first is a test value of the reference implementation.
    assert key_hash("") == 0x2D06800538D394C2
    assert key_hash("ø.jpg") == xxhash.xxh3_64_intdigest(b"\xc3\xb8.jpg")
    assert key_hash("\udcff.jpg") != key_hash("\udcfe.jpg")


def test_rows_do_not_depend_on_the_batch():
    hashes = np.array([key_hash(f"image-{i}") for i in range(50)], np.uint64)
    whole = uniforms(7, 3, hashes, 1, WINDOW, 22)
    shuffled = np.random.default_rng(0).permutation(50)
    np.testing.assert_array_equal(uniforms(7, 3, hashes[shuffled], 1, WINDOW, 22), whole[shuffled])
    np.testing.assert_array_equal(uniforms(7, 3, hashes[:1], 1, WINDOW, 22), whole[:1])
    assert uniforms(7, 3, hashes[:0], 1, WINDOW, 22).shape == (0, 22)


def test_every_argument_matters_and_numbers_are_uniform():
    hashes = np.array([key_hash(str(i)) for i in range(2000)], np.uint64)
    draws = [
        uniforms(*arguments, 10)
        for arguments in (
            (0, 0, hashes, 0, WINDOW),
            (1, 0, hashes, 0, WINDOW),
            (2**32, 0, hashes, 0, WINDOW),
            (0, 1, hashes, 0, WINDOW),
            (0, 0, hashes, 1, WINDOW),
            (0, 0, hashes, 0, PHOTOMETRIC),
            (0, 0, hashes, 0, 2),
        )
    ]
    numbers = np.stack(draws).reshape(-1)
    assert len(np.unique(numbers)) > numbers.size - 10
    # Cells of 1/100 hold 1,400 numbers each: chi-square of 99 degrees, mean 99, deviation 14.
    counts = np.histogram(numbers, 100, (0, 1))[0]
    assert ((counts - 1400) ** 2 / 1400).sum() < 99 + 5 * 14
    correlation = np.corrcoef([draw.ravel() for draw in draws])
    assert np.abs(correlation - np.eye(len(draws))).max() < 5 / np.sqrt(20_000)


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed": -1},
        {"seed": 2**64},
        {"epoch": 2**32},
        {"view": 2**16},
        {"stream": 256},
        {"count": -1},
        {"count": 1025},
        {"key_hashes": np.array([1])},
    ],
)
def test_arguments_out_of_range(wrong):
    right = {"seed": 0, "epoch": 0, "key_hashes": np.zeros(1, np.uint64)}
    right |= {"view": 0, "stream": 0, "count": 4}
    with pytest.raises(ValueError, match=next(iter(wrong))):
        uniforms(**(right | wrong))


def test_importing_the_folder_is_light():
    heavy = "{'torch', 'torchvision', 'scipy'} & set(sys.modules)"
    program = f"import sys, ccrop_pipeline.crops; sys.exit(str({heavy}) if {heavy} else 0)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_view_for_each_image_gives_what_one_for_all_gives():
    hashes = np.array([key_hash(f"key {i}") for i in range(6)], np.uint64)
    views = np.array([3, 0, 65535, 3, 1, 0])
    together = uniforms(5, 7, hashes, views, WINDOW, 9)
    for row, view in enumerate(views.tolist()):
        alone = uniforms(5, 7, hashes[row : row + 1], view, WINDOW, 9)
        np.testing.assert_array_equal(together[row], alone[0])
    with pytest.raises(ValueError, match="view must be in"):
        uniforms(5, 7, hashes, views + 1, WINDOW, 9)
