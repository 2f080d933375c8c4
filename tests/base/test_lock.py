import multiprocessing
import os
import signal
import subprocess
import sys

import pytest

from ccrop_pipeline.base.lock import only_writer
from ccrop_pipeline.errors import CcropError

HOLD = (
    "import os, sys, time; from pathlib import Path; from ccrop_pipeline.base.lock import *\n"
    "with only_writer(Path(sys.argv[1])):\n"
    "    print(os.getpid(), flush=True); sys.stdin.read()"
)


@pytest.fixture
def holder(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / "folder")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        process.stdout.readline()
        yield process
        process.kill()


def test_a_second_writer_is_told_who_the_first_is(tmp_path, holder):
    folder = tmp_path / "folder"
    said = f"process {holder.pid} on {os.uname().nodename}"
    for _ in range(2):  # looking does not take it from the first
        with pytest.raises(CcropError, match=said), only_writer(folder):
            pass
    holder.communicate("")
    with only_writer(folder):
        pass
    assert not list(folder.iterdir())


def test_a_killed_writer_is_in_nobodys_way(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert [path.name for path in (tmp_path / "folder").iterdir()] == [".ccrop.lock"]
    with only_writer(tmp_path / "folder"):
        pass
    assert not list((tmp_path / "folder").iterdir())


def test_one_process_holds_a_folder_once(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    with only_writer(tmp_path / "folder"):
        with pytest.raises(CcropError, match=str(os.getpid())), only_writer(tmp_path / "link"):
            pass
        with only_writer(tmp_path / "other"):
            pass
    with only_writer(tmp_path / "folder"):
        pass


def _try(folder, answers):
    try:
        with only_writer(folder):
            answers.put("held")
    except CcropError as error:
        answers.put(str(error))


def test_a_forked_child_neither_holds_nor_releases(tmp_path):
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    with only_writer(tmp_path):
        for _ in range(2):
            child = context.Process(target=_try, args=(tmp_path, answers))
            child.start()
            assert f"process {os.getpid()}" in answers.get()
            child.join()


def _add_often(folder):
    for _ in range(200):
        try:
            with only_writer(folder):
                count = int((folder / "count").read_text())
                (folder / "count").write_text(str(count + 1))
        except CcropError:
            with (folder / f"refused-{os.getpid()}").open("a") as file:
                file.write("x")


def test_no_two_ever_hold_it_together(tmp_path):
    (tmp_path / "count").write_text("0")
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_add_often, args=(tmp_path,)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    refused = sum(path.stat().st_size for path in tmp_path.glob("refused-*"))
    assert int((tmp_path / "count").read_text()) + refused == 600
