import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from made_sources import DATA, needs_data, parquet_of, picture

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images import open_source


def read_all(source):
    return [sample for shard in source.shards for sample in source.read(shard)]


def write(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


@needs_data
def test_all_of_cifar10_is_there():
    train = open_source(f"{DATA}/cifar10-parquet/train-{{00000..00004}}-of-00005.parquet")
    test = open_source(DATA / "cifar10-parquet/test-00000-of-00001.parquet")
    assert len(train.shards) == 5
    for source, count in ((train, 50_000), (test, 10_000)):
        index = source.index()
        assert len(index) == len(set(index.keys)) == count
        counts = [(index.labels == label).sum() for label in range(10)]
        assert counts == [count // 10] * 10
        assert len(source.classes) == 10
    rows = pq.read_table(test.paths[0]).slice(5000, 300).to_pylist()
    for i, row in enumerate(rows, 5000):
        assert index.keys[i] == row["image"]["path"]
        assert index.read(i) == row["image"]["bytes"]
        assert source.classes[index.labels[i]] in index.keys[i]


def test_index_equals_read(tmp_path):
    parquet_of(tmp_path / "a.parquet", ["x.png", "y.png", None])
    parquet_of(tmp_path / "b.parquet", ["z/1.png", "z/2.png"])
    source = open_source(tmp_path)
    samples = read_all(source)
    index = source.index()
    copy = pickle.loads(pickle.dumps(index))
    assert source.shards == ("a", "b")
    assert list(index.keys) == list(copy.keys) == [s.key for s in samples]
    assert index.labels.tolist() == [s.label for s in samples] == [0, 1, 2, 0, 1]
    assert index.shard_of.tolist() == [0, 0, 0, 1, 1]
    for i in range(5):
        assert index.read(i) == copy.read(i) == samples[i].image


def test_a_pickled_index_carries_no_images(tmp_path):
    parquet_of(tmp_path / "a.parquet", [f"{i}" for i in range(300)])
    index = open_source(tmp_path).index()
    assert len(pickle.dumps(index)) < 20_000 < sum(len(picture(i)) for i in range(300))


def test_keys_come_from_a_column_then_the_path_then_the_content(tmp_path):
    names = pa.array(["first", "second"])
    parquet_of(tmp_path / "a.parquet", ["x.png", "y.png"], key=names)
    parquet_of(tmp_path / "b.parquet", ["x.png", "y.png"], __key__=names)
    parquet_of(tmp_path / "c.parquet", ["x.png", None])
    write(tmp_path / "d.parquet", image=pa.array([picture(0), picture(1)]))
    content = [xxhash.xxh3_64(picture(i)).hexdigest() for i in range(2)]
    expected = {
        "a": ["first", "second"],
        "b": ["first", "second"],
        "c": ["x.png", content[1]],
        "d": content,
    }
    source = open_source(tmp_path)
    assert {shard: [s.key for s in source.read(shard)] for shard in source.shards} == expected


def test_an_image_column_of_another_name_is_found(tmp_path):
    kind = pa.struct([("bytes", pa.large_binary()), ("path", pa.string())])
    images = pa.array([{"bytes": picture(0), "path": "a"}], kind)
    write(tmp_path / "a.parquet", id=pa.array([7]), img=images, label=pa.array([5], pa.uint8()))
    assert read_all(open_source(tmp_path)) == [("a", picture(0), 5, None)]


def test_missing_and_negative_labels_are_unknown(tmp_path):
    images = pa.array([picture(i) for i in range(3)])
    write(tmp_path / "a.parquet", image=images, label=pa.array([None, -1, 4]))
    write(tmp_path / "b.parquet", image=pa.array([picture(i) for i in range(3, 5)]))
    source = open_source(tmp_path)
    assert [s.label for s in read_all(source)] == [None, None, 4, None, None]
    assert source.index().labels.tolist() == [-1, -1, 4, -1, -1]


@pytest.mark.parametrize(
    ("columns", "taken", "left"),
    [
        (["fine_label", "coarse_label"], 0, ["coarse_label"]),
        (["class"], 0, []),
        (["Target"], 0, []),
        (["width", "category_id"], 1, []),
        (["label", "cls"], 0, ["cls"]),
        (["style_label", "artist_label"], None, ["style_label", "artist_label"]),
        (["count", "classes"], None, ["classes"]),
        (["label_a", "label_2"], None, ["label_a", "label_2"]),
    ],
)
def test_labels_under_other_names_are_read_or_named(tmp_path, columns, taken, left):
    values = {name: pa.array([i + 5]) for i, name in enumerate(columns)}
    write(tmp_path / "a.parquet", img=pa.array([picture(0)]), **values, label_text=pa.array(["x"]))
    source = open_source(tmp_path)
    assert [s.label for s in read_all(source)] == [None if taken is None else taken + 5]
    assert source.index().labels.tolist() == [-1 if taken is None else taken + 5]
    assert source.ignored.counts == {"columns that may be labels": len(left) + 1}
    assert [*source.ignored.first.values()] == [[*left, "label_text"]]


def test_images_in_other_columns_are_named(tmp_path):
    images = pa.array([picture(0)])
    write(tmp_path / "a.parquet", image=images, mask=images, key=pa.array([b"a"]))
    source = open_source(tmp_path)
    assert read_all(source) == [("a", picture(0), None, None)]
    assert source.ignored.first == {"columns of images": ["mask"]}


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (pa.array(["a"], pa.large_string()), "a"),
        (pa.array([b"a"], pa.binary()), "a"),
        (pa.array(["a"]).dictionary_encode(), "a"),
        (pa.array([7], pa.uint64()), "7"),
        (pa.array([["a"]]), "is list<.*a key is a text"),
        (pa.array([{"a": 1}]), "is struct<.*a key is a text"),
        (pa.array([1.5]), "is double; a key is a text"),
        (pa.array([b"caf\xe9"]), "holds what is no key"),
    ],
)
def test_keys_are_texts(tmp_path, key, expected):
    kind = pa.struct([("bytes", pa.binary())])
    image = pa.array([{"bytes": picture(0)}], kind)
    source = open_source(write(tmp_path / "a.parquet", picture=image, key=key))
    if len(expected) == 1:
        assert [s.key for s in read_all(source)] == list(source.index().keys) == [expected]
        return
    for read in (read_all, lambda source: source.index()):
        with pytest.raises(CcropError, match=f"column `key` of .*{expected}"):
            read(source)


def test_labels_beyond_63_bits_are_named(tmp_path):
    labels = pa.array([1, 2**63], pa.uint64())
    write(tmp_path / "a.parquet", image=pa.array([b"1", b"2"]), label=labels)
    source = open_source(tmp_path)
    for read in (read_all, lambda source: source.index()):
        with pytest.raises(CcropError, match=r"`label` of .*a\.parquet holds a label of more than"):
            read(source)


@pytest.mark.slow
def test_a_long_table_is_cut_in_rows(tmp_path):
    count, cut = 140_000, 65_536
    images = pa.array([i.to_bytes(4, "big") for i in range(count)])
    table = pa.table({"image": images, "label": pa.array(range(count))})
    # Row groups that no cut falls upon.
    pq.write_table(table, tmp_path / "long.parquet", row_group_size=30_000)
    source = open_source(tmp_path / "long.parquet")
    assert source.shards == ("long-000000", "long-000001", "long-000002")
    labels = [[s.label for s in source.read(shard)] for shard in source.shards]
    assert labels == [
        list(range(cut)),
        list(range(cut, 2 * cut)),
        list(range(2 * cut, count)),
    ]
    index = source.index()
    assert index.labels.tolist() == list(range(count))
    assert index.shard_of.tolist() == [i // cut for i in range(count)]
    assert all(index.read(i) == i.to_bytes(4, "big") for i in range(0, count, 997))


def test_duplicates_are_refused(tmp_path):
    parquet_of(tmp_path / "a.parquet", ["x", "y"])
    parquet_of(tmp_path / "b.parquet", ["z", "x"])
    said = r"'x' occurs twice: image 0 of a \(.*a\.parquet\) and image 1 of b \(.*b\.parquet\)"
    with pytest.raises(CcropError, match=said):
        open_source(tmp_path).index()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": pa.array(["a"])}, "has 0 columns that could hold images; .*text: string"),
        ({"a": pa.array([b"1"]), "b": pa.array([b"2"])}, r"has 2 columns .*\(a, b\)"),
        ({"image": pa.array([b"1"]), "label": pa.array(["cat"])}, "`label` of .* is string"),
        ({"image": pa.array([b"1", None]), "key": pa.array(["k", "l"])}, "no image bytes|'l'"),
    ],
)
def test_wrong_tables_are_refused(tmp_path, columns, message):
    source = open_source(write(tmp_path / "a.parquet", **columns))
    with pytest.raises(CcropError, match=message):
        read_all(source)
    with pytest.raises(CcropError, match=message):
        source.index()


@pytest.mark.parametrize("keep", [0, 3, 100, -10])
def test_a_cut_file_is_refused(tmp_path, keep):
    path = parquet_of(tmp_path / "a.parquet", ["x", "y"])
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CcropError, match=r"a\.parquet cannot be read as Parquet"):
        read_all(open_source(path))


def test_damaged_pages_are_refused(tmp_path):
    path = parquet_of(tmp_path / "a.parquet", [f"{i}" for i in range(50)])
    data = path.read_bytes()
    path.write_bytes(data[:4] + bytes(2000) + data[2004:])
    with pytest.raises(CcropError, match=r"a\.parquet is damaged"):
        read_all(open_source(path))


def test_the_fingerprint_is_of_names_sizes_and_ends(tmp_path):
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        parquet_of(tmp_path / place / "a.parquet", ["x", "y"])
    before = open_source(tmp_path / "here").fingerprint()
    assert before == open_source(tmp_path / "there").fingerprint()
    parquet_of(tmp_path / "here/b.parquet", ["z"])
    parquet_of(tmp_path / "there/a.parquet", ["x", "y", "z"])
    others = {open_source(tmp_path / p).fingerprint() for p in ("here", "there")}
    assert len({before, *others}) == 3


def test_more_rows_than_the_bytes_can_hold_are_refused(tmp_path):
    images = pa.DictionaryArray.from_arrays(pa.array([0] * 300_000, pa.int8()), [picture(0)])
    pq.write_table(pa.table({"image": images.cast(pa.binary())}), tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 20_000
    with pytest.raises(CcropError, match=r"300,000 rows in .* bytes, which cannot be images"):
        list(open_source(tmp_path / "a.parquet").read("a"))


@pytest.mark.slow
def test_one_image_repeated_over_and_over_does_not_fill_the_memory(tmp_path):
    rows = pa.array([0] * 2_000, pa.int16())
    images = pa.DictionaryArray.from_arrays(rows, [b"\x89PNG" + bytes(500_000)])
    keys = [str(row) for row in range(2_000)]
    table = pa.table({"image": images, "key": keys})
    pq.write_table(table, tmp_path / "a.parquet", store_schema=False)
    with pytest.raises(CcropError, match="unpack into more than 100 times its bytes"):
        open_source(tmp_path / "a.parquet").index()


def test_a_name_with_a_control_character_is_named(tmp_path):
    parquet_of(tmp_path / "a.parquet", ["a.png", "b\n.png"])
    with pytest.raises(CcropError, match=r"row named 'b\\n\.png', with a control character"):
        list(open_source(tmp_path / "a.parquet").read("a"))


def test_a_large_image_repeated_is_unpacked_a_few_rows_at_a_time(tmp_path):
    """All rows at once would take 800 MB, of a file of 2 kB."""
    images = pa.DictionaryArray.from_arrays(pa.array([0] * 40), [b"\x89PNG" + bytes(20_000_000)])
    table = pa.table({"image": images, "key": [str(row) for row in range(40)]})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd", store_schema=False)
    before = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(before)
    pa.set_memory_pool(pool)
    try:
        with pytest.raises(CcropError, match="unpack into more than 100 times its bytes"):
            open_source(tmp_path / "a.parquet").index()
    finally:
        pa.set_memory_pool(before)
    assert 20_000_000 < pool.max_memory() < 300_000_000


def test_an_image_of_nothing_is_refused_before_it_is_unpacked(tmp_path):
    table = pa.table({"image": pa.array([picture(0), bytes(100_000_000)], pa.binary())})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd")
    assert (tmp_path / "a.parquet").stat().st_size < 20_000
    with pytest.raises(CcropError, match=r"a\.parquet unpack into more than 100 times its bytes"):
        next(open_source(tmp_path / "a.parquet").read("a"))
