"""What is an address, what a command, and what a path."""

from pathlib import Path

import pytest

from ccrop_pipeline.base.addresses import is_address, is_pipe


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
