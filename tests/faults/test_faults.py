"""A few operations of every command that writes are killed, torn or fail; `make torture`: all."""

import shutil
import sys

import pytest
from attacks import ALL, COMMANDS, FAULTS, KILL, LACKS, STRAITS
from torture import Torture

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the shim is for Linux"),
    pytest.mark.skipif(not shutil.which("cc"), reason="the shim needs a C compiler"),
]
# The others write with the same functions.
WHOLLY = ("data pack", "boxes compute", "boxes export --form coco", "export .safetensors", "train")
KILL_AND_FULL_DISK = [fault for fault in FAULTS if fault.name in ("kill", "ENOSPC")]
# Written with the same functions as `boxes compute --overwrite` and `boxes report`.
LONG = (
    "demo",
    "export .pth",
    "embed --overwrite",
    "report",
    "boxes show --out",
    "boxes fit-linear",
)
ALONE = [strait for strait in STRAITS if strait.starts == 1]
QUICK = [command for command in COMMANDS if command.name not in LONG]


@pytest.fixture(scope="module")
def torture(tmp_path_factory):
    torture = Torture(tmp_path_factory.mktemp("faults"))
    yield torture
    torture.server.close()


@pytest.mark.parametrize("command", QUICK, ids=lambda command: command.name)
def test_a_command_that_met_a_fault_says_so_and_then_ends_as_if_it_had_not(torture, command):
    faults = (*FAULTS, *LACKS) if command.name in WHOLLY else KILL_AND_FULL_DISK
    for number, fault in enumerate(faults):
        if not (met := torture.numbers(command, fault)):
            continue
        # A different place for each fault, so that few cases see many places.
        place = met[(2 * number + 1) * len(met) // (2 * len(faults))]
        assert torture.case(command, fault, place)["wrong"] is None, (fault.name, place)


@pytest.mark.parametrize("strait", ALONE[::3], ids=lambda strait: f"{strait.limits}")
def test_clocks_and_limits_change_nothing(torture, strait):
    train = next(command for command in COMMANDS if command.name == "train")
    assert torture.strait(train, strait, 1)["wrong"] is None


def test_the_shim_sees_what_arrow_and_torch_write_and_kills_where_it_is_told(torture):
    """The attack itself: were it blind, every case above would pass."""
    train = next(command for command in COMMANDS if command.name == "train")
    _, operations = torture.undisturbed(train)
    assert {"open", "write", "sync", "sync-folder", "mkdir", "rename", "link"} <= {*operations}
    out = torture.fresh(train)
    done = torture.run(train, out, (len(operations), KILL, 0, ALL))
    assert (done["status"], len(done["operations"])) == (-9, len(operations))
    kill = FAULTS[0]
    assert [torture.case(train, kill, n)["ended"] for n in (1, 10**6)] == [["killed"], ["exit 0"]]
