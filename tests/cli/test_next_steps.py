"""The command that mostly follows: one that there is, with what the last one was given."""

import io
import shlex

import click
import pytest
from ccrop_cli import next_steps
from ccrop_cli.main import cli

from ccrop_pipeline.recipes import load_recipe


def command_of(words):
    """Return the command that words begin with, and the words behind it."""
    found, rest = cli, list(words)
    while isinstance(found, click.Group):
        found = found.commands[rest.pop(0)]
    return found, rest


def leaves(group, words=()):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, (*words, name))
        else:
            yield " ".join((*words, name)), command


def variants():
    """Every command, with each of the forms that it writes."""
    for name, command in leaves(cli):
        forms = [p.type.choices for p in command.params if p.name == "form"]
        if name == "boxes export":
            yield from ((name, {"form": form}) for form in forms[0])
        elif name == "recipes":
            yield from ((name, {"name": of}) for of in (None, "byol"))
        else:
            yield name, {}


@pytest.mark.parametrize(("command", "more"), [*variants()])
def test_what_follows_is_a_command_that_takes_it(command, more):
    done, _ = command_of(command.split())
    given = {parameter.name: f"a {parameter.name}" for parameter in done.params}
    given |= {"dry_run": False, "name": None, **more}
    words = shlex.split(next_steps.next_of(command, given))
    if words[:2] == ["python", "-c"]:
        compile(words[2], "line", "exec")
        assert words[3].startswith("a out")
        return
    assert words[0] == "ccrop"
    follows, rest = command_of(words[1:])
    parser = follows.make_parser(click.Context(follows))
    _, left, _ = parser.parse_args(args=rest)
    assert left == []


@pytest.mark.parametrize(
    ("images", "more"),
    [(None, ""), (64, ""), (63, " --set batch_size=32"), (2, " --set batch_size=2"), (1, "")],
)
def test_few_images_are_trained_in_batches_that_they_fill(images, more):
    line = next_steps.next_of("data pack", {"out": "data"}, images)
    assert line == f"ccrop train data RUN --recipe photos-simclr-2core{more}"
    assert load_recipe("photos-simclr-2core").batch_size == 64


def test_training_follows_an_audit_that_warns_of_nothing():
    boxes = {"boxes": "boxes/first"}
    assert next_steps.next_of("boxes audit", boxes) == "ccrop boxes show boxes/first SOURCE"
    good = next_steps.next_of("boxes audit", boxes | {"form": "good"})
    assert good.startswith("ccrop train SOURCE RUN")
    assert good.endswith("--boxes boxes/first")


def test_a_report_knows_where_the_images_of_its_run_are():
    given = {"run": "runs/first", "out": None, "source": "my photos"}
    assert next_steps.next_of("report", given) == "ccrop probe runs/first 'my photos'"


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
