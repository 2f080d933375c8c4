"""The tree as design and README promise it: imports point downwards, light parts stay light."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ccrop_pipeline import __version__

ROOT = Path(__file__).parents[1]
# From top to bottom: a part may import from parts further down only.
LAYERS = (
    "adapters",
    "report",
    "export",
    "training",
    "models",
    "probes",
    "methods",
    "views",
    "recipes",
    "exchange",
    "compute",
    "localize",
    "crops",
    "boxset",
    "images",
    "base",
    "errors",
)
# Height of each room in the picture, in pixels from the top.
PICTURE = (ROOT / "docs/architecture.svg").read_text()
FLOORS = {name: float(y) for y, name in re.findall(r' y="([\d.]+)".*>(\w+)</text>', PICTURE)}


def imported(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def parts(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("ccrop_pipeline.")} & {*LAYERS}


def files_of(part: str) -> list[Path]:
    package = ROOT / "ccrop_pipeline" / part
    return sorted(package.rglob("*.py")) or [package.with_suffix(".py")]


def test_every_part_of_the_package_has_its_layer():
    found = {
        path.stem
        for path in (ROOT / "ccrop_pipeline").iterdir()
        if path.name != "__init__.py" and (path.suffix == ".py" or (path / "__init__.py").exists())
    }
    assert found == set(LAYERS)


@pytest.mark.parametrize("part", LAYERS)
def test_every_part_of_the_package_has_its_paragraph_and_its_place_in_the_picture(part):
    assert f"**`{part}`**" in (ROOT / "docs/architecture.md").read_text()
    assert part in FLOORS


@pytest.mark.parametrize("part", LAYERS)
def test_imports_point_downwards(part):
    allowed = {*LAYERS[LAYERS.index(part) :]}
    for file in files_of(part):
        upwards = parts(imported(file)) - allowed
        assert not upwards, f"{file.relative_to(ROOT)} imports {upwards}"
        assert all(FLOORS[part] <= FLOORS[other] for other in parts(imported(file)))


def test_a_file_name_means_one_thing_in_the_whole_package():
    names = [path.name for path in (ROOT / "ccrop_pipeline").rglob("*.py")]
    twice = {name for name in names if names.count(name) > 1}
    assert twice == {"__init__.py"}


def test_a_name_is_that_of_one_file_of_tests_only():
    """Files of tests lie in no packages: pytest cannot import two of one name."""
    names = [path.name for path in Path(__file__).parent.rglob("*.py")]
    assert len(names) == len(set(names)), sorted(names)


def test_click_and_rich_are_used_by_the_command_line_only():
    for file in (ROOT / "ccrop_pipeline").rglob("*.py"):
        assert not {"click", "rich"} & {name.split(".")[0] for name in imported(file)}, file


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return set(result.stdout.splitlines()[-1].split())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import ccrop_pipeline.boxset", {"torch", "xxhash", "webdataset", "PIL", "scipy"}),
        ("import ccrop_pipeline.images", {"torch", "webdataset"}),
        ("import ccrop_pipeline.crops", {"torch"}),
        ("import ccrop_pipeline.recipes", {"torch", "lightly", "pyarrow"}),
        ("import ccrop_pipeline.exchange", {"torch", "scipy"}),
        ("import ccrop_pipeline.report", {"torch", "scipy"}),
        (
            "import ccrop_pipeline.compute, ccrop_pipeline.models",
            {"lightly", "lightning_fabric", "pandas", "scipy", "timm", "torchvision", "webdataset"},
        ),
        ("import ccrop_cli.main", {"torch", "pyarrow", "numpy", "rich", "PIL"}),
    ],
)
def test_light_parts_stay_light(statement, absent):
    assert not loaded_by(statement) & absent


def test_the_version_is_one_in_all_places():
    newest = re.search(r"^## (\S+) - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    version, date = newest.groups()
    assert version == __version__
    cited = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {version}\n" in cited
    assert f"\ndate-released: {date}\n" in cited
