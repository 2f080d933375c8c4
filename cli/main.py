"""The root of the command line, and how errors reach people."""

import gc
import logging
import os
import re
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import click

from ccrop_pipeline import __version__
from ccrop_pipeline.errors import CcropError, cause

from . import sources
from .boxes_audit import audit
from .boxes_compute import compute
from .boxes_diff import diff
from .boxes_export import export
from .boxes_fit_linear import fit_linear
from .boxes_fixed import centre, full
from .boxes_follow import follow
from .boxes_import import import_
from .boxes_info import info
from .boxes_layers import layers
from .boxes_report import report as report_boxes
from .boxes_rethreshold import rethreshold
from .boxes_show import show
from .boxes_validate import validate
from .data_pack import pack
from .demo import demo
from .embed import embed
from .export import export as export_backbone
from .next_steps import say_next
from .printing import (
    escape_what_streams_cannot_encode,
    escaped_messages,
    note,
    results_alone_on_stdout,
)
from .probe import probe
from .quickstart import quickstart
from .recipes import recipes
from .report import report
from .train import train

# Read by torch when it first allocates: in small pages, mapping the memory of a batch of
# photographs afresh at every step takes a fifth of the time of their augmentation on a CPU.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


_SAME_SIGNAL_SECONDS = 1.0


class _Root(click.Group):
    """A group that shows errors meant for people as one message, with exit status 1."""

    _ended_by: int = signal.SIGINT

    def main(self, *args: Any, **kwargs: Any) -> Any:
        escape_what_streams_cannot_encode()
        return super().main(*args, **kwargs)

    @escaped_messages()
    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        return super().make_context(*args, **kwargs)

    @escaped_messages()
    def invoke(self, ctx: click.Context) -> Any:
        try:
            with self._ended_in_order():
                return super().invoke(ctx)
        except BrokenPipeError:  # as in `ccrop recipes | head`; click ends quietly
            raise
        except CcropError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            raise click.ClickException(_of_system(error)) from error
        except (MemoryError, RuntimeError, ImportError) as error:
            if not isinstance(error, MemoryError) and not _NO_MEMORY.search(str(error)):
                raise
            raise click.ClickException(
                "there is not enough memory. Free some or raise the limit (`ulimit -v`), use "
                "smaller batches or fewer workers, and run again: what is finished is kept."
            ) from error
        except KeyboardInterrupt as error:
            note("")
            note(f"Stopped. {str(error) or 'The same command goes on from there.'}")
            raise SystemExit(128 + self._ended_by) from None

    @contextmanager
    def _ended_in_order(self) -> Iterator[None]:
        """Let `kill`, `timeout`, schedulers and closed terminals end a command as Ctrl-C does.

        So that nothing temporary is left. A second signal ends it at once, unless it is the same
        one again: `timeout` sends it to the command, and to its group.
        """
        owner, first, self._ended_by = os.getpid(), 0.0, signal.SIGINT

        def end(number: int, _frame: object) -> None:
            nonlocal first
            is_second = first and time.monotonic() - first > _SAME_SIGNAL_SECONDS
            if os.getpid() != owner or is_second:  # the first: one that was forked
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            elif not first:
                first, self._ended_by = time.monotonic(), number
                # torch would raise to the very end that its loader processes got the signal, too.
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                raise KeyboardInterrupt

        before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGHUP):
                # Ignored, as by nohup, or of a library in C, which could not be put back.
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    before[number] = signal.signal(number, end)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


# What torch, oneDNN, Python's threads and the system's loader of libraries say; they have no class
# for it.
_NO_MEMORY = re.compile(
    r"can't (allocate memory|start new thread)|not enough memory|could not create a (primitive|mem)"
    r"|failed to map segment|cannot allocate memory"
)


def _of_system(error: OSError) -> str:
    """Say what the system says, with the file first."""
    if not error.errno:
        return str(error)
    if not error.filename:
        return f"{cause(error)}."
    from ccrop_pipeline.base.files import in_place_of_folder

    path = os.fspath(error.filename)
    return in_place_of_folder(path, error) or f"{path}: {cause(error)}."


@click.group(cls=_Root, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ccrop")
def cli() -> None:
    """ContrastiveCrop as a pipeline: boxes are data, computed offline and kept in files.

    A usual order: pack images, train with random crops and refreshed boxes, or compute boxes
    once and reuse them.

    \b
    Example:
      ccrop demo
    """
    # Most of a start is imports. They leave hardly any garbage, and by default Python looks for it
    # every 700 objects: a tenth of the time that torch and timm take to import.
    gc.set_threshold(10_000)
    # aiohttp has it print each connection that an error broke off, beside the one message.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)


@click.group("data")
def data() -> None:
    """Bring images into tar shards.

    \b
    Example:
      ccrop data pack photos data/photos
    """


@click.group("boxes")
def boxes() -> None:
    """Compute, inspect and check box sets.

    \b
    Example:
      ccrop boxes info boxes/first
    """


data.add_command(pack)
boxes.add_command(audit)
boxes.add_command(compute)
boxes.add_command(centre)
boxes.add_command(diff)
boxes.add_command(export)
boxes.add_command(fit_linear)
boxes.add_command(follow)
boxes.add_command(full)
boxes.add_command(import_)
boxes.add_command(info)
boxes.add_command(layers)
boxes.add_command(report_boxes)
boxes.add_command(rethreshold)
boxes.add_command(show)
boxes.add_command(validate)
for command in (
    quickstart,
    demo,
    data,
    train,
    report,
    recipes,
    boxes,
    probe,
    embed,
    export_backbone,
):
    cli.add_command(command)


def _leaves(group: click.Group) -> Iterator[click.Command]:
    for command in group.commands.values():
        if isinstance(command, click.Group):
            yield from _leaves(command)
        else:
            yield command


def _for_people(command: click.Command) -> Callable[..., Any]:
    """Let messages of the library, which name `parameters`, name the --flags of a command.

    What libraries print goes to stderr.
    """
    # What the command itself does not have, another does.
    flags: dict[str, str] = {
        "follow_links": "--follow-links of `ccrop data pack`",
        "unsafe": "`unsafe` of `open_encoder` in Python",
    }
    for option in (each for each in command.params if isinstance(each, click.Option)):
        flag = max(option.opts, key=len)
        flags |= dict.fromkeys((str(option.name), flag.removeprefix("--").replace("-", "_")), flag)
    run = command.callback
    assert run is not None

    @wraps(run)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            with results_alone_on_stdout(), sources.remembered():
                try:
                    result = run(*args, **kwargs)
                except SystemExit:  # of `ccrop boxes validate`, which has its own status
                    _say_what_was_read()
                    raise
                read = _say_what_was_read()
                name = " ".join(click.get_current_context().command_path.split()[1:])
                # A command may name how it ended, by which another one follows, or what it took.
                form = {"form": result} if isinstance(result, str) else {}
                form |= result if isinstance(result, dict) else {}
                if click.get_current_context().obj is None:  # else it is one of several
                    say_next(name, kwargs | form, read)
                return result
        except CcropError as error:
            message = re.sub(r"`(\w+)`", lambda found: flags.get(found[1], found[0]), str(error))
            if "overrides" in flags:  # settings of a recipe, as a shell takes them
                parts = re.split(r"`([\w.]+=[^`]+)`", message)
                parts[1::2] = [f"--set {shlex.quote(setting)}" for setting in parts[1::2]]
                message = "".join(parts)
            raise CcropError(message) from error

    return call


def _say_what_was_read() -> int | None:
    """Print what is known of the sources; return the images of the first, where known."""
    read = sources.records()
    for record in read:
        note(sources.line_of(record))
    return read[0]["images"] if read else None


for leaf in _leaves(cli):
    leaf.callback = _for_people(leaf)
