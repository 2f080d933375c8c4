"""Links between the pages, and paths named for contributors, lead to files that are there."""

import re
from pathlib import Path

import pytest
import yaml

import ccrop_pipeline

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "lab").rglob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    local = [target for target in targets if "://" not in target]
    missing = [target for target in local if not (page.parent / target).exists()]
    assert not missing


def test_the_site_has_every_page():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    assert sorted(listed(nav)) == sorted(str(page.relative_to(ROOT)) for page in PAGES)


def listed(nav: list | dict | str) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [
        page for part in (nav.values() if isinstance(nav, dict) else nav) for page in listed(part)
    ]


def test_the_page_of_python_has_every_public_name():
    named = re.findall(
        r"^::: ccrop_pipeline\.(?:\w+\.)*(\w+)$", (ROOT / "docs/api.md").read_text(), re.M
    )
    assert sorted(named) == sorted(ccrop_pipeline.__all__)


def test_paths_named_for_contributors_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = re.findall(r"`((?:ccrop_pipeline|cli|tests|docs|benchmarks|lab)/[\w./]*)`", text)
    paths = [path for path in named if "NAME" not in path]
    assert len(paths) > 20
    assert [path for path in paths if not (ROOT / path).exists()] == []
