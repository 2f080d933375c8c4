"""The loop of docs/python.md as a program, with loader processes that are not forked."""

import subprocess
import sys

import pytest

from ccrop_pipeline.images import Scenes, pack

LOOP = """
import multiprocessing
multiprocessing.set_start_method({method!r}, force=True)
import ccrop_pipeline as ccrop

{guard}
    source, views = ccrop.open_source({data!r}), ccrop.ViewGroup(2, 16)
    loader = ccrop.ViewLoader(source, views, batch_size=4, workers=2, resident_gb=0)
    for epoch in range(2):
        for batch in loader:
            print(epoch, len(batch), flush=True)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "tars"
    pack(Scenes(8, size=48), folder)
    return str(folder)


def program(tmp_path, data, method, guard):
    file = tmp_path / "program.py"
    file.write_text(LOOP.format(method=method, guard=guard, data=data))
    command = [sys.executable, str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_the_loop_runs_under_its_guard(tmp_path, data, method):
    done = program(tmp_path, data, method, 'if __name__ == "__main__":')
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0", "4", "0", "4", "1", "4", "1", "4"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_loop_without_a_guard_is_told_what_to_write(tmp_path, data, method):
    done = program(tmp_path, data, method, "if True:")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "CcropError: " in last
    assert f"started by {method!r}" in last
    assert 'put its loop under `if __name__ == "__main__":`, or set `workers` to 0.' in last
