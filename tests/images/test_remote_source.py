import io
import multiprocessing
import socket
import subprocess
import sys
import tarfile
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import fsspec
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from made_sources import DATA, folder_of, needs_data, picture, tar_of, write_tar

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images import RemoteTarSource, Source, open_source, streams

MEMORY = fsspec.filesystem("memory")


def read_all(source):
    return [sample for shard in source.shards for sample in source.read(shard)]


def ways(path: Path) -> list[str]:
    """The same tar by address and by command."""
    MEMORY.pipe(f"/copy/{path.name}", path.read_bytes())
    return [f"memory://copy/{path.name}", path.as_uri(), f"pipe:cat {path}"]


def outcome(source):
    try:
        return read_all(source)
    except CcropError:
        return "refused"


stems = st.builds(
    str.__add__,
    st.sampled_from(["", "a/", "d.e/", "a/b.c/", "__m__/", "./"]),
    st.sampled_from(["x", "y", "x y", "ä", "k" * 120, "__x__", ""]),
)
images = st.sampled_from([".png", ".JPG", ".jpeg"])
others = st.sampled_from([".Cls", ".cls", ".json", ".mask.png", ".txt", "", ".gif", "/"])
contents = st.sampled_from([b"1", b"-1", b" 2\n", b"3" * 700, b"", b"no number"])


@st.composite
def members(draw):
    """Files of samples, most of which are whole, one after the other."""
    found = []
    for stem in draw(st.lists(stems, max_size=4)):
        endings = [draw(images), *draw(st.lists(others, max_size=3))]
        found += [(stem + ending, draw(contents)) for ending in draw(st.permutations(endings))]
    return found


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(members())
def test_any_tar_gives_what_it_gives_locally(tmp_path_factory, members):
    path = tmp_path_factory.mktemp("any") / "t.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            info.size = 0 if info.isdir() else len(data)
            tar.addfile(info, io.BytesIO(data))
    expected = outcome(open_source(path))
    assert [outcome(open_source(way)) for way in ways(path)] == [expected] * 3


def test_samples_of_a_tar_with_everything(tmp_path):
    path = write_tar(
        tmp_path / "x.tar",
        [
            ("d.e/a.cls", b"4\n"),
            ("d.e/a.PNG", picture(0)),
            ("d.e/a.mask.png", b"not the image"),
            ("__meta__/b.jpeg", picture(1, "JPEG")),
            ("README", b"no extension"),
            ("__meta__/b.json", b'{"x": 1}'),
            ("._b.jpeg", b"a hidden file"),
            ("k" * 150 + ".Gif", picture(2, "GIF")),
        ],
    )
    for way in ways(path):
        source = open_source(way)
        assert isinstance(source, Source)
        assert (source.kind, source.shards, source.random_access) == ("tar", ("x",), False)
        assert read_all(source) == [
            ("d.e/a", picture(0), 4, None),
            ("__meta__/b", picture(1, "JPEG"), None, b'{"x": 1}'),
            ("k" * 150, picture(2, "GIF"), None, None),
        ]


@needs_data
def test_real_shards_and_fingerprints_are_those_read_locally():
    pattern = f"{DATA.resolve()}/objects-webdataset/objects-*.tar"
    local = open_source(pattern)
    remote = open_source(f"file://{pattern}")
    assert remote.shards == local.shards
    assert remote.fingerprint() == local.fingerprint()
    assert read_all(remote) == read_all(local)


def test_patterns_stand_for_shards_in_order(tmp_path):
    for name in ("b-000", "a-001", "a-000"):
        path = tar_of(tmp_path / f"{name}.tar", [name])
        MEMORY.pipe(f"/set/{name}.tar", path.read_bytes())
    for spec, shards in {
        "memory://set/a-{000..001}.tar": ("a-000", "a-001"),
        "memory://set/*.tar": ("a-000", "a-001", "b-000"),
        "memory://set/{b-*,a-001}.tar": ("b-000", "a-001"),
        f"{tmp_path.as_uri()}/?-000.tar": ("a-000", "b-000"),
        f"pipe:cat {tmp_path}/{{b-000,a-001}}.tar": ("b-000", "a-001"),
        f"pipe:gzip -c '{tmp_path}/a-000.tar' | zcat": ("a-000",),
        f'pipe:cat < "{tmp_path}/a-000.tar" 2>/dev/null': ("a-000",),
    }.items():
        source = open_source(spec)
        assert source.shards == shards
        assert source.location == spec
        assert [sample.key for sample in read_all(source)] == list(shards)


@pytest.mark.parametrize("keys", [["x"], [f"{i}" for i in range(40)], [f"{i}" for i in range(90)]])
def test_the_fingerprint_is_that_of_the_local_tars(tmp_path, keys):
    """Of less than 64 KiB, of less and of more than twice that."""
    for name in ("a", "b"):
        tar_of(tmp_path / f"{name}.tar", [name + key for key in keys])
        ways(tmp_path / f"{name}.tar")
    expected = open_source(f"{tmp_path}/{{a,b}}.tar").fingerprint()
    assert open_source("memory://copy/{a,b}.tar").fingerprint() == expected
    assert open_source(f"{tmp_path.as_uri()}/{{a,b}}.tar").fingerprint() == expected
    assert open_source("memory://copy/a.tar").fingerprint() != expected


def test_more_shards_than_are_fingerprinted_together(tmp_path):
    for i in range(70):
        MEMORY.pipe(f"/many/{i:02d}.tar", (b"%d" % i) * 100)
        (tmp_path / f"{i:02d}.tar").write_bytes((b"%d" % i) * 100)
    expected = open_source(tmp_path).fingerprint()
    assert open_source("memory://many/*.tar").fingerprint() == expected


def test_the_fingerprint_of_commands_is_of_their_texts():
    specs = ("pipe:cat a.tar", "pipe:cat a.tar", "pipe:cat b.tar", "pipe:cat {a,b}.tar")
    prints = [open_source(spec).fingerprint() for spec in specs]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_class_names_lie_beside_the_first_tar(tmp_path):
    tar_of(tmp_path / "x.tar", ["a"])
    assert [open_source(way).classes for way in ways(tmp_path / "x.tar")] == [(), (), ()]
    (tmp_path / "classes.txt").write_text("cat\nkäfer\n")
    MEMORY.pipe("/copy/classes.txt", "cat\nkäfer\n".encode())
    names = [open_source(way).classes for way in ways(tmp_path / "x.tar")]
    MEMORY.rm("/copy/classes.txt")
    assert names == [("cat", "käfer"), ("cat", "käfer"), ()]


@pytest.mark.parametrize(
    "content", [b"caf\xe9\nb\n", b"\xef\xbb\xbfa\r\nb c\x0bd", b"", b"\n\na\n"]
)
def test_class_names_are_those_read_locally(tmp_path, content):
    tar_of(tmp_path / "x.tar", ["a"])
    (tmp_path / "classes.txt").write_bytes(content)
    found = []
    for spec in (tmp_path / "x.tar", (tmp_path / "x.tar").as_uri()):
        try:
            found.append(open_source(spec).classes)
        except CcropError as error:
            found.append(str(error).rpartition("/")[2])
    assert found[0] == found[1]
    if b"caf" in content:
        assert "classes.txt is no list of class names" in found[0]


def test_there_is_no_random_access(tmp_path):
    for way in ways(tar_of(tmp_path / "x.tar", ["a"])):
        with pytest.raises(CcropError, match=r"x\.tar can only be read in order.*local folder"):
            open_source(way).index()
    local = (open_source(tmp_path), open_source(folder_of(tmp_path / "f", ["a.png"])))
    assert all(source.random_access for source in local)


@pytest.mark.parametrize("way", range(3))
def test_a_tar_cut_anywhere_is_refused(tmp_path, way):
    path = tar_of(tmp_path / "x.tar", ["a", "b"])
    data = path.read_bytes()
    with tarfile.open(path) as tar:
        end = max(info.offset_data + info.size for info in tar)
    blocks = range(0, end, 512)
    for length in [*blocks, *(block + 100 for block in blocks), end - 1, end]:
        path.write_bytes(data[:length])
        with pytest.raises(CcropError, match=r"x\.tar cannot be read to its end"):
            read_all(open_source(ways(path)[way]))


@pytest.mark.parametrize("way", range(3))
def test_a_damaged_header_in_the_middle_is_not_taken_for_the_end(tmp_path, way):
    path = tar_of(tmp_path / "x.tar", ["a", "b", "c"])
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        data[tar.getmembers()[2].offset + 10] ^= 1
    path.write_bytes(data)
    theirs = webdataset.WebDataset(str(path), shardshuffle=False)
    assert [sample["__key__"] for sample in theirs] == ["a"], "webdataset does not notice"
    samples = open_source(ways(path)[way]).read("x")
    with pytest.raises(CcropError, match=r"x\.tar cannot be read to its end.*damaged"):
        list(samples)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.png", b"1"), ("b.png", b"2"), ("a.cls", b"3")], "'a' occurs twice.*samples 0 and 2"),
        ([("a.png", b"1"), ("a.png", b"2")], r"two files a\.png"),
        ([("a.cls", b"1")], r"'a' in .*x\.tar has 0 images \(members: \.cls\)"),
        ([("a.png", b"1"), ("a.cls", b"cat")], r"label b'cat' of key 'a' in .*x\.tar"),
    ],
)
def test_wrong_samples_are_refused(tmp_path, members, message):
    for way in ways(write_tar(tmp_path / "x.tar", members)):
        with pytest.raises(CcropError, match=message):
            read_all(open_source(way))


@pytest.mark.parametrize("command", ["cat {0}; exit 3", "head -c 700 {0}; exit 3", "exit 3 # {0}"])
def test_a_command_that_fails_is_an_error_even_after_all_images(tmp_path, command):
    path = tar_of(tmp_path / "x.tar", ["a", "b"])
    with pytest.raises(CcropError, match=r"pipe:.*x\.tar.* failed with exit status 3"):
        read_all(open_source("pipe:" + command.format(path)))


def test_a_command_that_writes_on_after_the_tar_does_not_fail_for_it(tmp_path):
    path = tar_of(tmp_path / "x.tar", ["a", "b"])
    source = open_source(f"pipe:cat {path} && head -c 3000000 /dev/zero")
    assert len(read_all(source)) == 2


def test_a_command_is_ended_with_all_its_processes_when_reading_stops(tmp_path):
    path = tar_of(tmp_path / "x.tar", ["a", "b"])
    source = open_source(f"pipe:sleep 60 & echo $$ $! > {tmp_path}/pids; cat {path}; wait")
    samples = source.read("x")
    next(samples)
    shell, sleeper = (tmp_path / "pids").read_text().split()
    assert all(running(pid) for pid in (shell, sleeper))
    samples.close()
    assert not running(shell)
    # Only its parent is waited for; the signal takes its time to arrive.
    deadline = time.monotonic() + 10
    while running(sleeper) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not running(sleeper)


ENDS = {
    "killed": "os.kill(os.getpid(), 9)",
    "terminated": "os.kill(os.getpid(), 15)",
    "interrupted": "os.kill(os.getpid(), 2)",
    "hung up": "os.kill(os.getpid(), 1)",
    "exit": "sys.exit(3)",
    "at once": "os._exit(3)",
    "abort": "os.abort()",
    "an error that keeps the frame": "kept = samples; raise ValueError",
    "the end of the source": "list(samples)",
}
READER = """
import os, sys, time
from ccrop_pipeline.images import open_source
samples = open_source(sys.argv[1]).read("x")
next(samples)
while not os.path.exists(sys.argv[2] + "/pids"):
    time.sleep(0.01)
"""


@pytest.mark.parametrize("end", ENDS.values(), ids=list(ENDS))
def test_a_command_ends_with_us_and_lets_go_of_stderr(tmp_path, end):
    path = tar_of(tmp_path / "x.tar", ["a", "b"])
    spec = f"pipe:sleep 60 >&2 & cat {path}; echo $$ $! > {tmp_path}/pids"
    spec += "" if "list" in end else "; sleep 60"
    command = [sys.executable, "-c", READER + end, spec, str(tmp_path)]
    # Ends when nobody has stderr any more.
    subprocess.run(command, stderr=subprocess.PIPE, timeout=50, check=False)
    deadline = time.monotonic() + 10
    pids = (tmp_path / "pids").read_text().split()
    while any(running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(running(pid) for pid in pids)


def test_a_command_reads_nothing_of_our_input(tmp_path):
    path = tar_of(tmp_path / "x.tar", ["a"])
    assert len(read_all(open_source(f"pipe:cat; cat {path}"))) == 1


def running(pid: str) -> bool:
    try:
        # The name in brackets may hold spaces; the state follows it.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("memory://nowhere/a.tar", "nothing is found at memory://nowhere/a.tar"),
        ("file:///nowhere/a.tar", "nothing is found at file:///nowhere/a.tar"),
        ("memory://nowhere/*.tar", r"nothing is found at memory://nowhere/\*\.tar"),
        ("nosuch://host/a.tar", "nosuch://host/a.tar.*Protocol not known"),
        ("oci://bucket/a.tar", "oci://bucket/a.tar needs another package.*ocifs"),
        ("memory://{a,b}/x.tar", "two files give the shard name 'x'"),
        ("pipe:cat {a,b}/x.tar", "two files give the shard name 'x'"),
        ("pipe:cat images", r"pipe:cat images names no \.tar file"),
        ("memory://data/x.tar.gz", r"x\.tar\.gz names no \.tar file"),
    ],
)
def test_what_cannot_be_opened_is_named(spec, message):
    with pytest.raises(CcropError, match=message):
        read_all(open_source(spec))
    if "nothing" in message:
        with pytest.raises(CcropError, match="nothing is found"):
            open_source(spec).fingerprint()


class Server(SimpleHTTPRequestHandler):
    """Files of a folder; as plain as the standard library's, or with ranges, slow or broken.

    Attributes:
        ranges: Whether parts are given.
        breaks_after: Bytes of an answer after which a connection ends; None: never.
        pause: Seconds between two pieces of an answer.
        stalls: Answers that stop half-way for a second.
        status: Of answers to come that fail.
        version: What is said of the state of the files.
        asked: Ranges that were asked for.
    """

    ranges, breaks_after, pause, stalls, version = False, None, 0.0, 0, "1"

    def do_GET(self):
        asked, path = self.headers["Range"], Path(self.translate_path(self.path))
        self.asked.append(asked)
        if self.failing:
            return self.send_error(self.failing.pop())
        if not path.is_file():
            return self.send_error(404)
        data = path.read_bytes()
        if asked and self.ranges:
            first, last = asked.removeprefix("bytes=").split("-")
            stop = int(last or len(data)) + 1
            part = data[int(first) : stop]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{stop - 1}/{len(data)}")
        else:
            part = data
            self.send_response(200)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("ETag", self.version)
        self.end_headers()
        return self.send_in_pieces(part[: self.breaks_after])

    def send_in_pieces(self, part):
        for start in range(0, len(part), 20_000):
            time.sleep(self.pause)
            if start > len(part) / 2 and self.stalled():
                time.sleep(1)
                break
            self.wfile.write(part[start : start + 20_000])

    @classmethod
    def stalled(cls):
        cls.stalls -= 1
        return cls.stalls >= 0

    def log_message(self, *args):
        pass


@pytest.fixture
def web(tmp_path):
    pytest.importorskip("aiohttp")
    handler = type("Handler", (Server,), {"asked": [], "failing": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", handler
        server.shutdown()


@pytest.mark.slow
def test_a_web_server_without_ranges_gives_images_and_no_fingerprint(tmp_path, web):
    # More than the 5 MiB that fsspec asks for at a time.
    write_tar(tmp_path / "x.tar", [(f"{i}.png", picture(i) * 20_000) for i in range(3)])
    assert (tmp_path / "x.tar").stat().st_size > 2 * 5 * 2**20
    (address, handler), local = web, open_source(tmp_path / "x.tar")
    remote = open_source(f"{address}/x.tar?token=a/b.tar")
    assert remote.shards == ("x",)
    assert read_all(remote) == read_all(local)
    with pytest.raises(CcropError, match=r"does not give parts of .*x\.tar"):
        remote.fingerprint()
    handler.ranges = True
    assert remote.fingerprint() == local.fingerprint()
    assert remote.classes == ()


@pytest.fixture
def quick(monkeypatch):
    """Times on a small scale: no pauses, and a web client that waits for half a second at most."""
    aiohttp = pytest.importorskip("aiohttp")
    monkeypatch.setattr(streams, "_PAUSES", (0.0, 0.0))
    monkeypatch.setattr(streams, "_TIMEOUT", 0.5)
    monkeypatch.setattr("aiohttp.client.DEFAULT_TIMEOUT", aiohttp.ClientTimeout(total=0.5))
    fsspec.get_filesystem_class("http").clear_instance_cache()
    yield
    fsspec.get_filesystem_class("http").clear_instance_cache()


def many(path):
    """A tar of 200 kB."""
    return tar_of(path / "x.tar", [f"{i}" for i in range(90)])


@pytest.mark.slow
def test_a_slow_server_may_take_its_time(tmp_path, web, quick):
    local, (address, handler) = open_source(many(tmp_path)), web
    handler.pause = 0.12  # 1.2 seconds in all
    assert read_all(open_source(f"{address}/x.tar")) == read_all(local)


@pytest.mark.slow
def test_a_slow_reader_may_take_its_time(tmp_path, web, quick):
    write_tar(tmp_path / "x.tar", [(f"{i}.png", picture(i) * 40_000) for i in range(3)])
    samples = []
    for sample in open_source(f"{web[0]}/x.tar").read("x"):
        samples.append(sample)
        time.sleep(0.6)
    assert samples == read_all(open_source(tmp_path / "x.tar"))


@pytest.mark.slow
@pytest.mark.parametrize("ranges", [False, True])
def test_reading_goes_on_at_the_byte_reached(tmp_path, web, quick, ranges):
    local, (address, handler) = open_source(many(tmp_path)), web
    handler.ranges, handler.stalls = ranges, 2
    assert read_all(open_source(f"{address}/x.tar")) == read_all(local)
    first, *others = handler.asked
    assert first is None
    assert len(others) == 2


def test_each_break_brings_it_further(tmp_path, web, quick):
    write_tar(tmp_path / "x.tar", [(f"{i}.png", picture(i) * 5_000) for i in range(3)])
    address, handler = web
    handler.ranges, handler.breaks_after, handler.failing[:] = True, 1_000_000, [503]
    assert read_all(open_source(f"{address}/x.tar")) == read_all(open_source(tmp_path / "x.tar"))
    none, again, *ranges = handler.asked
    assert none is again is None
    starts = [int(asked.removeprefix("bytes=").removesuffix("-")) for asked in ranges]
    assert all(a + 100_000 < b for a, b in pairwise([0, *starts]))


def test_what_had_arrived_when_a_connection_broke_is_not_asked_for_again(tmp_path, web, quick):
    """Else a server that ends each answer after so little would never be read to the end."""
    local, (address, handler) = open_source(many(tmp_path)), web
    handler.ranges, handler.breaks_after = True, 20_000
    assert read_all(open_source(f"{address}/x.tar")) == read_all(local)


def test_a_file_that_changes_meanwhile_is_an_error(tmp_path, web, quick):
    many(tmp_path)
    address, handler = web
    handler.breaks_after, handler.ranges = 150_000, True
    samples = open_source(f"{address}/x.tar").read("x")
    next(samples)
    handler.version = "2"
    with pytest.raises(CcropError, match=r"x\.tar changed while it was read"):
        list(samples)


def test_a_connection_that_always_breaks_is_an_error(tmp_path, web, quick):
    many(tmp_path)
    address, handler = web
    handler.breaks_after = 100_000
    with pytest.raises(CcropError, match=rf"{address}/x\.tar cannot be used"):
        read_all(open_source(f"{address}/x.tar"))
    with pytest.raises(CcropError, match=r"nothing is found at .*/y\.tar"):
        read_all(open_source(f"{address}/y.tar"))
    handler.failing = [403]
    with pytest.raises(CcropError, match=r"x\.tar cannot be used .*403"):
        read_all(open_source(f"{address}/x.tar"))
    assert handler.failing == []


@pytest.mark.parametrize(
    "use", [read_all, RemoteTarSource.fingerprint, lambda source: source.classes]
)
def test_where_nobody_answers_is_not_where_nothing_is_found(quick, use):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/x.tar"
        with pytest.raises(CcropError, match=rf"^{address} cannot be used .*Cannot connect"):
            use(open_source(address))


def send_samples(source: RemoteTarSource, queue) -> None:
    queue.put(read_all(source))


@pytest.mark.filterwarnings("ignore:This process")
def test_a_source_that_was_used_can_be_used_in_a_forked_worker(tmp_path, web):
    tar_of(tmp_path / "x.tar", ["a", "b"])
    source = open_source(f"{web[0]}/x.tar")
    samples = read_all(source)  # starts the event loop of the file system
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    worker = context.Process(target=send_samples, args=(source, queue))
    worker.start()
    assert queue.get(timeout=60) == samples
    worker.join()
