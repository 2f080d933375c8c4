"""Box sets on a real S3 service of this machine, which answers as it is told to."""

import subprocess
import sys
import threading
from pathlib import Path

import fsspec
import pytest
from table_strategies import PROVENANCE, make_table

from ccrop_pipeline.base import stores
from ccrop_pipeline.boxset import BoxSet, missing_shards, write_manifest, write_shard
from ccrop_pipeline.errors import CcropError

pytest.importorskip("s3fs", reason="s3fs is absent")
pytest.importorskip("moto", reason="moto, a local S3 service, is absent")
pytest.importorskip("flask", reason="moto[server] is absent")

BODY = "<?xml version='1.0'?><Error><Code>{}</Code><Message>said so</Message></Error>"
NOT_IMPLEMENTED = "501 Not Implemented", "NotImplemented"
BAD_HEADER = "400 Bad Request", "InvalidArgument"
CONFLICT = "409 Conflict", "ConditionalRequestConflict"
PRECONDITION = "412 Precondition Failed", "PreconditionFailed"
SLOW_DOWN = "503 Slow Down", "SlowDown"


class Service:
    """A WSGI application before moto's: answers of its own, and a rival that puts first.

    Attributes:
        answers: To the next puts of what must not be there yet, one each.
        always: To all of them.
        rival: Content that is put just before such a put.
    """

    def __init__(self, app):
        self.app, self.answers, self.rival, self.always = app, [], None, None

    def __call__(self, environ, start_response):
        if environ["REQUEST_METHOD"] == "PUT" and "HTTP_IF_NONE_MATCH" in environ:
            if self.rival is not None:
                content, self.rival = self.rival, None
                fsspec.get_filesystem_class("s3")(skip_instance_cache=True).pipe_file(
                    environ["PATH_INFO"], content
                )
            if answer := self.always or (self.answers and self.answers.pop(0)):
                status, code = answer
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                start_response(status, [("Content-Type", "application/xml")])
                return [BODY.format(code).encode()]
        return self.app(environ, start_response)


@pytest.fixture
def service(monkeypatch):
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    service = Service(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, service, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(stores, "_CONFLICT_PAUSES", (0.0, 0.0, 0.0))
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    files = fsspec.filesystem("s3")
    if files.exists("bucket"):  # moto keeps it for the process, whatever the port
        files.rm("bucket", recursive=True)
    files.mkdir("bucket")
    yield service
    fsspec.filesystem("s3").rm("bucket", recursive=True)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    server.shutdown()


ADDRESS = "s3://bucket/boxes"


def shard_bytes(folder, seed):
    write_shard(folder, "s", make_table(["k"], seed), PROVENANCE)
    return (folder / "data/s.parquet").read_bytes()


def stored():
    return fsspec.filesystem("s3").cat_file("bucket/boxes/data/s.parquet")


@pytest.mark.parametrize("always", [None, NOT_IMPLEMENTED, BAD_HEADER])
def test_a_box_set_with_and_without_conditional_puts(service, tmp_path, always):
    service.always = always
    tables = {
        name: make_table([f"{name}{i}" for i in range(5)], seed) for seed, name in enumerate("ab")
    }
    for place in (ADDRESS, tmp_path):
        for name, table in tables.items():
            write_shard(place, name, table, PROVENANCE)
        assert missing_shards(place, ["a", "b", "c"]) == ["c"]
        write_manifest(place, ["a", "b"], PROVENANCE)
        write_shard(place, "a", tables["a"], PROVENANCE)  # again: the same bytes
    remote, local = BoxSet.open(ADDRESS), BoxSet.open(tmp_path)
    assert remote.manifest.shards == local.manifest.shards
    assert [remote["b3"].box] == [local["b3"].box]
    with pytest.raises(CcropError, match=r"a\.parquet is already there with other content"):
        write_shard(ADDRESS, "a", tables["b"], PROVENANCE)


@pytest.mark.slow
@pytest.mark.parametrize("answer", [CONFLICT, SLOW_DOWN])
def test_what_the_protocol_says_to_retry_is_retried(service, tmp_path, answer):
    service.answers = [answer] * 3
    write_shard(ADDRESS, "s", make_table(["k"], 1), PROVENANCE)
    assert service.answers == []
    assert stored() == shard_bytes(tmp_path, 1)


def test_a_conflict_without_end_is_an_error(service):
    service.always = CONFLICT
    with pytest.raises(CcropError, match=r"s3://bucket/boxes/data/s\.parquet cannot be used"):
        write_shard(ADDRESS, "s", make_table(["k"], 1), PROVENANCE)


@pytest.mark.slow
@pytest.mark.parametrize("answers", [[], [CONFLICT], [PRECONDITION]])
def test_who_puts_first_stays(service, tmp_path, answers):
    theirs = shard_bytes(tmp_path, 1)
    service.rival, service.answers = theirs, answers
    with pytest.raises(CcropError, match=r"s\.parquet is already there with other content"):
        write_shard(ADDRESS, "s", make_table(["k"], 2), PROVENANCE)
    assert stored() == theirs


def test_without_conditions_what_is_there_before_the_put_stays(service, tmp_path):
    theirs = shard_bytes(tmp_path, 1)
    service.rival, service.always = theirs, NOT_IMPLEMENTED
    with pytest.raises(CcropError, match=r"s\.parquet is already there with other content"):
        write_shard(ADDRESS, "s", make_table(["k"], 2), PROVENANCE)
    assert stored() == theirs


WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from table_strategies import PROVENANCE, make_table
from ccrop_pipeline.base.files import TargetTakenError
from ccrop_pipeline.boxset import write_shard
table = make_table(["k"], int(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for round in range(5):
    try:
        write_shard("s3://bucket/boxes", f"s{round}", table, PROVENANCE)
        print(round, "won")
    except TargetTakenError:
        print(round, "lost")
"""


@pytest.mark.slow
def test_of_several_writers_at_once_one_wins_each_shard(service, tmp_path):
    command = [sys.executable, "-c", WRITER]
    writers = [
        subprocess.Popen(
            [*command, str(seed), str(Path(__file__).parent)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in range(4)
    ]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    told = [writer.communicate(timeout=60)[0] for writer in writers]
    for turn in range(5):
        (winner,) = [seed for seed, text in enumerate(told) if f"{turn} won" in text]
        (tmp_path / f"{turn}").mkdir()
        write_shard(tmp_path / f"{turn}", f"s{turn}", make_table(["k"], winner), PROVENANCE)
        expected = (tmp_path / f"{turn}/data/s{turn}.parquet").read_bytes()
        assert fsspec.filesystem("s3").cat_file(f"bucket/boxes/data/s{turn}.parquet") == expected
