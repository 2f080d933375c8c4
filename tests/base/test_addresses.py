"""What is an address, what a command, and what a path."""

import sys
from pathlib import Path

import pytest

from ccrop_pipeline.base.addresses import file_system, is_address, is_pipe, local_path
from ccrop_pipeline.errors import CcropError, SettingError
from ccrop_pipeline.images import Scenes, pack
from ccrop_pipeline.training import train


@pytest.mark.parametrize(
    ("location", "address"),
    [
        ("s3://bucket/boxes", True),
        ("https://host/a.tar?x=1", True),
        ("file:///data", True),
        ("simplecache::s3://bucket/a.tar", True),
        ("git+ssh://host/a", True),
        ("boxes/first", False),
        ("/data/odd://name", False),
        ("C:\\data", False),
        ("d://data", False),
        ("pipe:curl https://host/a.tar", False),
        (Path("s3://bucket/boxes"), False),
    ],
)
def test_an_address_begins_with_a_protocol(location, address):
    assert is_address(location) == address


def test_a_command_begins_with_pipe():
    assert is_pipe("pipe:cat a.tar")
    assert not is_pipe("data/pipe:cat")
    assert not is_pipe(Path("pipe:cat"))


@pytest.mark.parametrize("address", ["s3://bucket/x", "https://host/x"])
def test_no_folder_is_made_of_an_address(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for write in (
        lambda: local_path(address),
        lambda: pack(Scenes(2, size=32), address),
        lambda: train(Scenes(64, size=32), address, recipe="demo"),
    ):
        with pytest.raises(SettingError, match=f"{address} is an address; .* path of this machine"):
            write()
    assert list(tmp_path.iterdir()) == []


def test_the_package_that_an_address_needs_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)  # as if it were not installed
    with pytest.raises(CcropError) as caught:
        file_system("gs://bucket/boxes")
    said = "gs://bucket/boxes needs another package: Please install gcsfs to access Google Storage."
    assert str(caught.value) == said
