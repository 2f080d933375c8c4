"""The command that mostly follows: one that there is, with what the last one was given."""

import io
import shlex

import click
import pytest
from ccrop_cli import next_steps
from ccrop_cli.main import cli


def command_of(words):
    """Return the command that words begin with, and the words behind it."""
    found, rest = cli, list(words)
    while isinstance(found, click.Group):
        found = found.commands[rest.pop(0)]
    return found, rest


@pytest.mark.parametrize("command", next_steps.NEXT)
def test_what_follows_is_a_command_that_takes_it(command):
    done, _ = command_of(command.split())
    given = {parameter.name: f"a {parameter.name}" for parameter in done.params}
    words = shlex.split(next_steps.next_of(command, given))
    assert words[0] == "ccrop"
    follows, rest = command_of(words[1:])
    parser = follows.make_parser(click.Context(follows))
    _, left, _ = parser.parse_args(args=rest)
    assert left == []


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "more", "said"),
    [
        (Terminal(), {}, "next: ccrop boxes show 'my boxes' photos\n"),
        (io.StringIO(), {}, ""),
        (Terminal(), {"as_json": True}, ""),
        (Terminal(), {"world_size": 2}, ""),
    ],
)
def test_it_is_said_on_a_terminal_alone(stream, more, said, monkeypatch):
    monkeypatch.setattr("sys.stderr", stream)
    next_steps.say_next("boxes compute", {"out": "my boxes", "source": "photos", **more})
    assert stream.getvalue() == said
