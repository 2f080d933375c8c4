"""The page of licences has each package that pyproject.toml names, and no other."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


def test_each_requirement_has_its_licence():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"ccrop": project["dependencies"], **project["optional-dependencies"]}
    required = {
        (Requirement(line).name, group) for group, lines in groups.items() for line in lines
    } - {(project["name"], "dev")}
    page = (ROOT / "docs/licences.md").read_text().partition("## What is not permissive")[0]
    rows = re.findall(r"^\| (\S+) \| (.+) \| (\w+) \|$", page, re.M)
    assert {(name, group) for name, _, group in rows} == required, "run `make licences`"
    assert [name for name, licence, _ in rows if licence in ("?", "unknown")] == []
