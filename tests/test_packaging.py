"""What an index shows, and what a source distribution and an image of a container hold."""

import re
import runpy
import subprocess
from pathlib import Path

import pytest

from ccrop_pipeline import __version__

ROOT = Path(__file__).parents[1]
RELATIVE = re.compile(r"\]\((?!\w+:|#)")


@pytest.fixture
def long_description(monkeypatch, tmp_path):
    """Return what setup.py hands to setuptools as README, with this line among the URLs."""
    setuptools = pytest.importorskip("setuptools")

    def described(line=""):
        given = {}
        monkeypatch.setattr(setuptools, "setup", given.update)
        (tmp_path / "ccrop_pipeline").mkdir()
        for name in ("setup.py", "README.md", "pyproject.toml", "ccrop_pipeline/__init__.py"):
            text = (
                (ROOT / name)
                .read_text("utf-8")
                .replace("[project.urls]", f"[project.urls]\n{line}")
            )
            (tmp_path / name).write_text(text, "utf-8")
        runpy.run_path(str(tmp_path / "setup.py"))
        return given["long_description"]

    return described


def test_an_index_shows_readme_without_links_that_lead_nowhere(long_description):
    readme = (ROOT / "README.md").read_text("utf-8")
    shown = long_description()
    assert RELATIVE.search(readme)
    assert not RELATIVE.search(shown)
    assert shown.count("](http") == readme.count("](http")


def test_with_a_repository_links_lead_to_this_version_there(long_description):
    shown = long_description('Repository = "https://host/we/ccrop"')
    assert not RELATIVE.search(shown)
    found = re.findall(rf"\]\(https://host/we/ccrop/(?:raw|blob)/v{__version__}/([^)#]+)", shown)
    assert len(found) > 9
    assert [path for path in found if not (ROOT / path).exists()] == []


def test_a_source_distribution_takes_in_every_tracked_file():
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    lines = (ROOT / "MANIFEST.in").read_text().splitlines()
    words = [word for line in lines if not line.startswith("#") for word in line.split()]
    # setuptools takes in these, and the packages, by itself.
    words += ["LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py"]
    words += ["ccrop_pipeline", "cli", ".dockerignore"]
    tops = {name.split("/")[0] for name in tracked if not name.startswith(".")}
    assert sorted(tops - set(words)) == []


def test_the_container_is_built_from_files_that_are_there_and_sent():
    steps = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text()).splitlines()
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    sent = {line.removeprefix("!") for line in ignore if line.startswith("!")}
    copied = {
        name
        for step in steps
        if step.startswith("COPY ")
        for name in step.split()[1:-1]
        if "[" not in name  # a pattern: the file may be missing
    }
    assert [name for name in copied if not (ROOT / name).exists()] == []
    assert copied == sent - {"constraints.txt"}
    # What the wheel is built from.
    assert copied == {"LICENSE", "README.md", "ccrop_pipeline", "cli", "pyproject.toml", "setup.py"}
    assert 'ENTRYPOINT ["ccrop"]' in steps
    (user,) = [step for step in steps if step.startswith("USER ")]
    assert user.split()[1] not in ("0", "root")
