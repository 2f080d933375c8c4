"""Shared by all tests: one thread a process, since tests run in as many processes as cores."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def real_data() -> Path:
    folder = Path(__file__).parents[1] / "../shared/data"
    if not folder.is_dir():
        pytest.skip("the folder of real images, ../shared/data, is not there")
    return folder.resolve()
