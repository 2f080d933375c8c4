"""Finds the packages and makes README fit for an index; all else is in pyproject.toml."""

import re
import tomllib
from pathlib import Path

from setuptools import find_namespace_packages, setup

HERE = Path(__file__).parent


def readme_for_index() -> str:
    """Return README with links that also lead somewhere on the page of a package index.

    Paths become addresses in the repository that pyproject.toml names, at the tag of this
    version. While it names none, only the text of such links is kept.
    """
    urls = tomllib.loads((HERE / "pyproject.toml").read_text("utf-8"))["project"]["urls"]
    face = (HERE / "ccrop_pipeline/__init__.py").read_text("utf-8")
    (version,) = re.findall(r'^__version__ = "(.+)"', face, re.M)

    def outward(link: re.Match[str]) -> str:
        picture, text, path = link.groups()
        if "Repository" not in urls:
            return text
        kind = "raw" if picture else "blob"
        return f"{picture}[{text}]({urls['Repository']}/{kind}/v{version}/{path})"

    readme = (HERE / "README.md").read_text("utf-8")
    return re.sub(r"(!?)\[([^][]*)\]\((?!\w+:|#)([^)\s]+)\)", outward, readme)


# pyproject.toml can either find packages or list them, and `cli` is installed under another name.
found = find_namespace_packages(include=["ccrop_pipeline*"], exclude=["*__pycache__"])
setup(
    packages=["ccrop_cli", *found],
    long_description=readme_for_index(),
    long_description_content_type="text/markdown",
)
