"""What training codes keep beside weights is passed over, and runs nothing."""

import argparse
import collections
import contextlib
import dataclasses
import datetime
import decimal
import enum
import functools
import os
import pathlib
import pickle
import re
import types
import uuid

import numpy as np
import pytest
import torch
from ccrop_cli.main import cli
from click.testing import CliRunner

from ccrop_pipeline.errors import ModelError
from ccrop_pipeline.models.checkpoints import find_weights
from ccrop_pipeline.models.weight_files import read_weights

STATE = {"layer.weight": torch.arange(6.0).reshape(2, 3), "layer.bias": torch.ones(2)}


class Kind(enum.Enum):
    """As a training script has them, in `__main__` or a package of its own."""

    ONE = 1


class Config(dict):
    """A dictionary with attributes, as easydict, yacs and mmcv have them."""


class Losses(list):
    """A list with attributes."""


@dataclasses.dataclass
class Settings:
    """A configuration."""

    lr: float = 0.1


def with_attributes(made):
    made.frozen = True
    return made


def groups():
    made = collections.defaultdict(list)
    made["decay"].append(1)
    return made


BESIDE = {
    "NumPy scalar": np.float64(3.5),
    "NumPy array": np.arange(3),
    "NumPy generator": np.random.RandomState(0),
    "dtype": np.dtype("f4"),
    "arguments": argparse.Namespace(lr=0.1),
    "path": pathlib.Path("/data"),
    "dates": [datetime.datetime(2024, 1, 2), datetime.timedelta(1), datetime.UTC],
    "collections": [groups(), collections.deque([1, 2], maxlen=3), collections.Counter("ab")],
    "partial": functools.partial(int, base=2),
    "enum as a key": {Kind.ONE: 1, pathlib.Path("a"): 2},
    "set of enums": {Kind.ONE},
    "dictionary with attributes": with_attributes(Config(a=1)),
    "list with attributes": with_attributes(Losses([1, 2])),
    "dataclass": Settings(),
    "plain values": [frozenset([1]), slice(1, 2), range(3), 1j, 10**60, b"bytes", True, None],
    "namespace": types.SimpleNamespace(a=1),
    "numbers": [decimal.Decimal("1.5"), uuid.UUID(int=1)],
    "class and function": [int, Settings, np.mean],
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before zip"])
@pytest.mark.parametrize("what", BESIDE)
def test_objects_beside_the_weights_are_passed_over(what, zipped, tmp_path) -> None:
    file = tmp_path / "checkpoint.pth"
    content = {"state_dict": STATE, "epoch": 3, "beside": BESIDE[what]}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    found = find_weights(read_weights(file, unsafe=False), file)
    assert found.epoch == 3
    assert found.state.keys() == STATE.keys()
    assert all(torch.equal(found.state[name], value) for name, value in STATE.items())


def test_an_omegaconf_configuration_is_passed_over(tmp_path) -> None:
    omegaconf = pytest.importorskip("omegaconf")
    config = omegaconf.OmegaConf.create({"model": {"sizes": [1, 2], "name": "vit"}})
    torch.save({"state_dict": STATE, "hyper_parameters": config}, tmp_path / "last.ckpt")
    found = find_weights(read_weights(tmp_path / "last.ckpt", unsafe=False), tmp_path)
    assert found.state.keys() == STATE.keys()


@pytest.mark.parametrize("module", [b"numpy.core", b"numpy._core"], ids=bytes.decode)
def test_numpy_scalars_of_both_places_of_the_module(module, tmp_path) -> None:
    file, content = tmp_path / "checkpoint.pth", {"state_dict": STATE, "best": np.float64(3)}
    torch.save(content, file, _use_new_zipfile_serialization=False)
    file.write_bytes(re.sub(rb"numpy\._?core", module, file.read_bytes()))
    assert module in file.read_bytes()
    assert find_weights(read_weights(file, unsafe=False), file).state.keys() == STATE.keys()


class Calls:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def attacks(target: pathlib.Path):
    code = f"__import__('os').mkdir({str(target)!r})"
    return {
        "os": Calls(os.mkdir, str(target)),
        "eval": Calls(eval, code),
        "exec": Calls(exec, code),
        "torch": Calls(torch.utils.collect_env.run, f"mkdir {target}"),
        "numpy": Calls(np.lib.format.open_memmap, str(target), "w+", "u1", (1,)),
    }


HARMLESS = {"torch", "numpy"}  # nothing of them is imported or called, so that the file is read


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before zip"])
@pytest.mark.parametrize("what", ["os", "eval", "exec", "torch", "numpy"])
def test_what_would_run_code_runs_nothing(what, zipped, tmp_path) -> None:
    import torch.utils.collect_env

    target, file = tmp_path / "ran", tmp_path / "bad.pth"
    content = {"state_dict": STATE, "beside": attacks(target)[what]}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    if what in HARMLESS:
        assert find_weights(read_weights(file, unsafe=False), file).state.keys() == STATE.keys()
    else:
        with pytest.raises(ModelError, match=r"run any code.*`unsafe`"):
            read_weights(file, unsafe=False)
    assert not target.exists()
    # The attack itself is sound: it runs where that is asked for.
    with contextlib.suppress(Exception):
        read_weights(file, unsafe=True)
    assert target.exists()


def test_a_whole_network_is_refused_and_read_where_it_is_trusted(tmp_path) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(3, 2))
    for content in (network, {"epoch": 1, "model": network}):
        torch.save(content, tmp_path / "whole.pth")
        with pytest.raises(ModelError, match=r"a whole object \(torch.*Sequential\).*`unsafe`"):
            find_weights(read_weights(tmp_path / "whole.pth", unsafe=False), tmp_path)
    found = find_weights(read_weights(tmp_path / "whole.pth", unsafe=True), tmp_path)
    assert torch.equal(found.state["0.weight"], network[0].weight)


def test_no_remedy_is_named_that_a_command_has_not(tmp_path) -> None:
    """`ccrop train` and `ccrop export` have no --unsafe."""
    bad = tmp_path / "bad.pth"
    torch.save({"state_dict": Calls(os.mkdir, "x")}, bad)
    for line in (["export", bad, "out.safetensors"], ["boxes", "layers", bad]):
        result = CliRunner().invoke(cli, [str(part) for part in line])
        assert result.exit_code == 1
        assert "run any code" in result.stderr
        assert ("--unsafe" in result.stderr) == ("layers" in line)
        assert "`unsafe`" not in result.stderr


def test_torch_asks_nobody_to_file_an_issue_about_a_damaged_file(tmp_path, recwarn) -> None:
    """It warns of protocols of pickle other than its own."""
    (tmp_path / "bad.pth").write_bytes(pickle.dumps([], 4))
    with pytest.raises(ModelError, match="cannot be read as a checkpoint"):
        read_weights(tmp_path / "bad.pth", unsafe=False)
    assert not recwarn.list


def test_a_program_is_no_file_of_weights(tmp_path) -> None:
    program = torch.export.export(torch.nn.ReLU(), (torch.zeros(1),))
    torch.export.save(program, tmp_path / "a.pth")
    with pytest.raises(ModelError, match=r"is a program of torch\.export, no file of weights"):
        read_weights(tmp_path / "a.pth", unsafe=False)
