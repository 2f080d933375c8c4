"""Tars that other programs write: sparse files, links, several in one, names and sizes."""

import io
import os
import re
import subprocess
import tarfile

import pytest
from made_sources import picture, tar_of, write_tar

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images import open_source


def read_all(source):
    return [sample for shard in source.shards for sample in source.read(shard)]


def ways(path):
    return [str(path), path.as_uri(), f"pipe:cat {path}"]


def by_index(path):
    index = open_source(path).index()
    return [index.read(i) for i in range(len(index))]


def with_holes(path, size, runs):
    """A file with holes, and its bytes."""
    whole = bytearray(size)
    with path.open("wb") as file:
        for offset, data in runs:
            file.seek(offset)
            file.write(data)
            whole[offset : offset + len(data)] = data
        file.truncate(size)
    return bytes(whole)


BLOCK = 4096
MAPS = {
    "two runs": (20 * BLOCK, [(0, b"a" * BLOCK), (7 * BLOCK, b"b" * BLOCK)]),
    "a hole at both ends": (9 * BLOCK + 77, [(3 * BLOCK, b"c" * 100)]),
    "nothing but a hole": (8 * BLOCK, []),
    "to the last byte": (5 * BLOCK + 5, [(5 * BLOCK, b"d" * 5)]),
    # The header of old GNU tar has four runs, each of its extensions 21.
    "sixty runs": (200 * BLOCK, [(3 * i * BLOCK, bytes([i + 1]) * BLOCK) for i in range(60)]),
}
FORMATS = ["--format=gnu"] + [f"--format=pax --sparse-version={v}" for v in ("0.0", "0.1", "1.0")]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", MAPS)
def test_sparse_members_are_read_with_their_holes(tmp_path, form, name):
    whole = with_holes(tmp_path / "b.bmp", *MAPS[name])
    (tmp_path / "a.png").write_bytes(picture(0))
    (tmp_path / "c.png").write_bytes(picture(1))
    command = f"tar {form} --hole-detection=raw -S -cf x.tar a.png b.bmp c.png"
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    with tarfile.open(tmp_path / "x.tar") as tar:
        assert [member.issparse() for member in tar] == [False, True, False]
    expected = [picture(0), whole, picture(1)]
    for way in ways(tmp_path / "x.tar"):
        assert [sample.image for sample in read_all(open_source(way))] == expected
    assert by_index(tmp_path / "x.tar") == expected


def old_gnu(size, runs, stored=b""):
    """A tar with a sparse member `b.bmp` as old GNU tar writes it."""
    info = tarfile.TarInfo("b.bmp")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, len(stored)
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    for i, (offset, length) in enumerate(runs):
        header[386 + 24 * i : 410 + 24 * i] = number(offset) + number(length)
    header[483:495] = number(size)
    return signed(header) + stored + bytes(-len(stored) % 512) + bytes(1024)


def number(value):
    if 0 <= value < 8**11:
        return b"%011o\0" % value
    return (b"\xff" if value < 0 else b"\x80") + (value % 2**88).to_bytes(11, "big")


def signed(header):
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (old_gnu(100, [(0, 10), (5, 10)], b"x" * 20), "b.bmp of .* wrong map"),
        (old_gnu(100, [(50, 10), (0, 10)], b"x" * 20), "b.bmp of .* wrong map"),
        (old_gnu(100, [(95, 10)], b"x" * 10), "b.bmp of .* wrong map"),
        (old_gnu(9000, [(0, 9000)], b"x" * 10), "b.bmp of .* wrong map"),
        (old_gnu(100, [(0, -5)], b"x" * 10), "b.bmp of .* wrong map"),
        (old_gnu(6_600_000_000, [(0, 10)], b"x" * 10), "b.bmp of .* 6600000000 bytes, 10 of them"),
        (old_gnu(17_000_000, [(0, 10)], b"x" * 10), "b.bmp of .* 17000000 bytes, 10 of them"),
        (old_gnu(2**63 + 5, [(0, 10)], b"x" * 10), "damaged"),
        (old_gnu(-5, [(0, 10)], b"x" * 10), "damaged"),
    ],
)
def test_a_sparse_member_that_cannot_be_is_refused(tmp_path, content, message):
    (tmp_path / "x.tar").write_bytes(content)
    for way in ways(tmp_path / "x.tar"):
        with pytest.raises(CcropError, match=message):
            read_all(open_source(way))
    with pytest.raises(CcropError, match=message):
        by_index(tmp_path / "x.tar")


RECORDS = [
    {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"},
    {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "many"},
    {"GNU.sparse.map": "0,x", "GNU.sparse.size": "5"},
    {"GNU.sparse.map": "0", "GNU.sparse.size": "5"},
    {"GNU.sparse.map": "0,5,2,1", "GNU.sparse.size": "9"},
    {"GNU.sparse.map": "0,5", "GNU.sparse.size": "9" * 40},
    {"GNU.sparse.size": "-4"},
    {"size": "9" * 30},
    {"size": "-512"},
]


@pytest.mark.parametrize("records", RECORDS)
def test_damaged_records_of_a_member_are_one_message(tmp_path, records):
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for key in "ab":
            info = tarfile.TarInfo(f"{key}.png")
            info.size, info.pax_headers = 5, records if key == "a" else {}
            tar.addfile(info, io.BytesIO(b"12345"))
    for way in ways(tmp_path / "x.tar"):
        with pytest.raises(CcropError, match=r"x\.tar"):
            read_all(open_source(way))


@pytest.mark.parametrize("size", [-1, -512, 2**33, 2**40, 2**62, 2**63, 2**63 - 1, 2**80])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize("name", ["b.png", "b.mp4"])
def test_a_member_larger_than_the_tar_is_refused_at_once(tmp_path, size, kind, name):
    info = tarfile.TarInfo(name)
    info.type = kind
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = number(size)
    tar_of(tmp_path / "x.tar", ["a"])
    whole = (tmp_path / "x.tar").read_bytes()[: 4 * 512]
    (tmp_path / "x.tar").write_bytes(whole + signed(header) + bytes(2048))
    for way in ways(tmp_path / "x.tar"):
        with pytest.raises(CcropError, match=r"x\.tar"):
            read_all(open_source(way))


def linked(path, links, files):
    with tarfile.open(path, "w") as tar:
        for name, kind, target in links:
            info = tarfile.TarInfo(name)
            if kind is None:
                info.size = len(files[target])
                tar.addfile(info, io.BytesIO(files[target]))
            else:
                info.type, info.linkname = kind, target
                tar.addfile(info)
    return path


HARD, SOFT = tarfile.LNKTYPE, tarfile.SYMTYPE


def test_links_are_the_files_they_point_to(tmp_path):
    files = {"A": picture(0), "D": picture(1), "one": b"7"}
    members = [
        ("s.jpg", SOFT, "d/d.jpg"),  # to what comes later
        ("./a.jpg", None, "A"),
        ("./a.cls", None, "one"),
        ("b.jpg", HARD, "a.jpg"),
        ("b.cls", SOFT, "a.cls"),
        ("d/d.jpg", None, "D"),
        ("d/e.jpg", SOFT, "../b.jpg"),  # a link to a link
        ("d/elsewhere", SOFT, "/"),
        ("d/notes.txt", SOFT, "/etc/passwd"),
    ]
    path = linked(tmp_path / "x.tar", members, files)
    (tmp_path / "there").mkdir()
    subprocess.run(["tar", "xf", path, "-C", tmp_path / "there"], check=True)
    found = read_all(open_source(path))
    assert [sample.key for sample in found] == ["s", "./a", "b", "d/d", "d/e"]
    for sample in found:
        assert sample.image == (tmp_path / f"there/{sample.key}.jpg").read_bytes()
    assert [sample.label for sample in found] == [None, 7, 7, None, None]
    assert by_index(path) == [sample.image for sample in found]
    for way in ways(path)[1:]:
        with pytest.raises(CcropError, match=r"member s\.jpg of .*x\.tar is a link to d/d\.jpg"):
            read_all(open_source(way))


@pytest.mark.parametrize("target", ["/etc/passwd", "../x.png", "nowhere.jpg", "b.jpg", "c.jpg"])
@pytest.mark.parametrize("kind", [HARD, SOFT])
def test_a_link_to_nothing_in_the_tar_is_named(tmp_path, target, kind):
    members = [("a.jpg", None, "A"), ("b.jpg", kind, target), ("c.jpg", kind, "b.jpg")]
    path = linked(tmp_path / "x.tar", members, {"A": picture(0)})
    for use in (read_all, lambda source: source.index()):
        with pytest.raises(CcropError, match=r"member b\.jpg of .*x\.tar is a link to"):
            use(open_source(path))


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE, b"M", b"?"])
def test_an_image_that_is_no_file_is_named(tmp_path, kind):
    path = linked(tmp_path / "x.tar", [("a.jpg", None, "A"), ("b.jpg", kind, "")], {"A": b"1"})
    for way in ways(path):
        with pytest.raises(CcropError, match=r"member b\.jpg of .*x\.tar is no file"):
            read_all(open_source(way))


def test_tars_joined_into_one_are_all_read(tmp_path):
    parts = [tar_of(tmp_path / f"{k}.part", [f"{k}{i}" for i in range(3)]) for k in "abc"]
    data = [part.read_bytes() for part in parts]
    # With the end of the first, without that of the second.
    (tmp_path / "x.tar").write_bytes(data[0] + data[1][: 12 * 512] + data[2])
    expected = [f"{k}{i}" for k in "abc" for i in range(3)]
    for way in ways(tmp_path / "x.tar"):
        assert [sample.key for sample in read_all(open_source(way))] == expected
    assert by_index(tmp_path / "x.tar") == [picture(i) for i in range(3)] * 3
    (tmp_path / "x.tar").write_bytes(data[0] + b"what is no tar".ljust(512))
    for way in ways(tmp_path / "x.tar"):
        with pytest.raises(CcropError, match=f"at byte {len(data[0])}"):
            read_all(open_source(way))


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_a_name_that_is_not_utf8_is_named(tmp_path, form):
    bad = os.fsdecode(b"caf\xe9")
    with tarfile.open(
        tmp_path / "x.tar", "w", format=form, encoding="utf-8", errors="surrogateescape"
    ) as tar:
        for name in ("a.jpg", f"{bad}.txt", f"{bad}/b.jpg"):
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"1"))
    for way in ways(tmp_path / "x.tar"):
        with pytest.raises(CcropError, match=re.escape(r"caf\xe9/b.jpg'") + ".*not UTF-8"):
            read_all(open_source(way))
    with pytest.raises(CcropError, match="not UTF-8"):
        open_source(tmp_path / "x.tar").index()


def test_a_name_with_a_control_character_is_named(tmp_path):
    path = write_tar(tmp_path / "x.tar", [("a.png", picture(0)), ("b\n.png", picture(1))])
    for way in ways(path):
        with pytest.raises(CcropError, match=r"member b\\n\.png of .*control character"):
            read_all(open_source(way))


@pytest.mark.parametrize("label", [b"9223372036854775808", b"9" * 40, b"9" * 5000, b"\xff", b"1.5"])
def test_a_label_that_is_none_is_named(tmp_path, label):
    path = write_tar(tmp_path / "x.tar", [("a.png", picture(0)), ("a.cls", label)])
    for way in ways(path):
        with pytest.raises(CcropError, match=r"of key 'a' in .*x\.tar is not a whole number"):
            read_all(open_source(way))
    with pytest.raises(CcropError, match="of key 'a'"):
        open_source(path).index()
    write_tar(path, [("a.png", picture(0)), ("a.cls", b"9223372036854775807")])
    assert open_source(path).index().labels.tolist() == [2**63 - 1]


@pytest.mark.parametrize("keyword", ["path", "comment", "GNU.sparse.size"])
def test_records_of_many_digits_are_refused_at_once(tmp_path, keyword):
    # 70,000 took half a minute
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("a.png")
        member.size, member.pax_headers = len(picture(0)), {keyword: "0" * 300_000}
        tar.addfile(member, io.BytesIO(picture(0)))
    for way in ways(tmp_path / "x.tar"):
        with pytest.raises(CcropError, match="more than 1024 digits in a row"):
            read_all(open_source(way))


def test_images_are_known_by_content_and_what_is_nothing_of_a_sample_is_counted(tmp_path):
    members = [("0", picture(0)), ("0.cls", b"3"), ("a/1", picture(1, "JPEG")), ("LICENSE", b"x")]
    members += [("._0.jpg", b"x"), ("2.jpg", picture(2)), ("2.txt", b"a cat")]
    path = write_tar(tmp_path / "a.tar", members)
    right = [("0", picture(0), 3), ("a/1", picture(1, "JPEG"), None), ("2", picture(2), None)]
    ignored = {"hidden": ["._0.jpg"], "without extension": ["LICENSE"], ".txt": ["2.txt"]}
    for way in ways(path):
        source = open_source(way)
        assert [sample[:3] for sample in read_all(source)] == right
        assert source.ignored_read["a"].first == ignored
    assert by_index(path) == [image for _, image, _ in right]
