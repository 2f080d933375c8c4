"""What is attacked and how: commands, faults, and what counts as whole afterwards."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
# As in shim.c.
KINDS = ("open", "write", "sync", "sync-folder", "mkdir", "rename", "link", "unlink", "truncate")
COUNT, KILL, TEAR, POWER, ONCE, FROM_THEN_ON = range(6)


def kinds(*names: str) -> int:
    return sum(1 << KINDS.index(name) for name in names)


ALL = kinds(*KINDS)
ROOM = kinds("open", "write", "mkdir", "link")
NAMES = kinds("open", "mkdir", "rename", "link", "unlink")


@dataclass(frozen=True)
class Fault:
    """What happens at the N-th of the operations that count."""

    name: str
    mode: int
    error: int = 0
    kinds: int = ALL


FAULTS = (
    Fault("kill", KILL),
    Fault("torn write", TEAR, kinds=kinds("write")),
    Fault("power cut", POWER),
    Fault("ENOSPC", FROM_THEN_ON, errno.ENOSPC, ROOM),
    Fault("EIO", ONCE, errno.EIO, kinds("write", "sync", "sync-folder", "rename")),
    Fault("EACCES", ONCE, errno.EACCES, NAMES),
    Fault("EROFS", FROM_THEN_ON, errno.EROFS, NAMES | kinds("truncate")),
)
# Of file systems that cannot do something; no fault for those who use them.
LACKS = (
    Fault("no sync of folders", FROM_THEN_ON, errno.EINVAL, kinds("sync-folder")),
    Fault("no hard links", FROM_THEN_ON, errno.EPERM, kinds("link")),
)


@dataclass(frozen=True)
class Strait:
    """A start that is not hit at an operation: another at the same time, or a limit.

    Attributes:
        name: What it is.
        starts: How many at once.
        kill: Whether the first start is killed half-way.
        limits: Of the start, or after a kill of the second.
    """

    name: str
    starts: int = 1
    kill: bool = False
    limits: tuple[tuple[str, int], ...] = ()


STRAITS = (
    Strait("clock goes back", kill=True, limits=(("clock", 86_400 * 400),)),
    *(Strait("few open files", limits=(("nofile", most),)) for most in (40, 46, 52, 58, 64)),
    *(Strait("memory limit", limits=(("memory", size << 20),)) for size in (8, 32, 64, 128, 256)),
    *(Strait("two starts at once", starts=2) for _ in range(4)),
)

SETTINGS = (
    "image_size=32",
    "boxes.threshold=0.1",
    "epochs=2",
    "batch_size=8",
    "boxes.refresh_epochs=[1]",
    "optimizer.lr_warmup_epochs=0",
)
_SET = tuple(part for setting in SETTINGS for part in ("--set", setting))


@dataclass(frozen=True)
class Command:
    """A command that writes below `{out}` from what lies in `{inputs}`."""

    name: str
    arguments: tuple[str, ...]
    before: tuple[str, ...] | None = None  # a command that fills `{out}` beforehand

    def filled(self, arguments: tuple[str, ...], inputs: Path, out: Path) -> list[str]:
        return [part.format(inputs=inputs, out=out) for part in arguments]


def _boxes(*arguments: str) -> tuple[str, ...]:
    return ("boxes", *arguments)


_COMPUTE = _boxes("compute", "{inputs}/tars", "{out}/boxes", "--model", "{inputs}/run")
_EMBED = ("embed", "{inputs}/run", "{inputs}/tars", "{out}/features")
_TRAIN = ("train", "{inputs}/tars", "{out}/run", "--recipe", "demo", *_SET, "--device", "cpu")
_DRAWN = ("{inputs}/boxes", "{inputs}/tars")
_EXPORT = _boxes("export", "{inputs}/boxes")
COMMANDS = (
    Command("data pack", ("data", "pack", "{inputs}/photos", "{out}/tars", "--max-images", "10")),
    Command("export .safetensors", ("export", "{inputs}/run", "{out}/new/backbone.safetensors")),
    Command("export .pth", ("export", "{inputs}/resnet", "{out}/new/backbone.pth")),
    Command("boxes export --form coco", (*_EXPORT, "{out}/new/boxes.json", "--form", "coco")),
    Command("boxes export --form hf", (*_EXPORT, "{out}/images", "--form", "hf")),
    Command("boxes export --form yolo", (*_EXPORT, "{out}/new/labels", "--form", "yolo")),
    Command("boxes export --form webdataset", (*_EXPORT, "{out}/boxes", "--form", "webdataset")),
    Command("boxes compute", _COMPUTE),
    Command("boxes compute --form webdataset", (*_COMPUTE, "--form", "webdataset")),
    Command(
        "boxes compute --overwrite",
        (*_COMPUTE, "--overwrite"),
        before=_boxes("full", "{inputs}/tars", "{out}/boxes"),
    ),
    Command(
        "boxes import",
        _boxes("import", "{inputs}/tars", "{out}/boxes", "--coco", "{inputs}/coco.json"),
    ),
    Command("boxes full", _boxes("full", "{inputs}/tars", "{out}/boxes")),
    Command(
        "boxes rethreshold",
        _boxes("rethreshold", "{inputs}/boxes", "{out}/boxes", "--threshold", "0.4"),
    ),
    Command("embed", _EMBED),
    Command(
        "embed --overwrite",
        (*_EMBED, "--overwrite"),
        before=("embed", "{inputs}/resnet", "{inputs}/tars", "{out}/features"),
    ),
    Command("boxes report", _boxes("report", *_DRAWN, "{out}/boxes.html")),
    Command("boxes show --out", _boxes("show", *_DRAWN, "--out", "{out}/boxes.png")),
    Command(
        "boxes fit-linear",
        _boxes("fit-linear", *_DRAWN, "{out}/head.safetensors", "--model", "{inputs}/run"),
    ),
    Command("report", ("report", "{inputs}/run", "{out}/run.html")),
    Command("train", _TRAIN),
    Command("demo", ("demo", "{out}/demo")),
)


def make_inputs(server: "Server", inputs: Path) -> None:
    """Make what the commands read, with commands of ccrop."""
    from ccrop_pipeline.images import Scenes

    scenes = Scenes(20, size=32)
    for sample in scenes.read(scenes.shards[0]):
        path = inputs / "photos" / scenes.classes[sample.label] / f"{sample.key}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample.image)
    run = ("--recipe", "demo", *_SET, "--set", "boxes.kind=none", "--device", "cpu")
    for arguments in (
        ("data", "pack", "{inputs}/photos", "{inputs}/tars", "--max-images", "10"),
        ("train", "{inputs}/tars", "{inputs}/run", *run),
        ("train", "{inputs}/tars", "{inputs}/resnet", *run, "--set", "backbone=resnet18"),
        ("boxes", "compute", "{inputs}/tars", "{inputs}/boxes", "--model", "{inputs}/run"),
        ("boxes", "export", "{inputs}/boxes", "{inputs}/coco.json", "--form", "coco"),
    ):
        done = server.run([part.format(inputs=inputs) for part in arguments], inputs)
        if done["status"] != 0:
            raise RuntimeError(f"{arguments}: {done['output']}")


class Server:
    """The process that runs commands under the shim."""

    def __init__(self, folder: Path) -> None:
        shim = folder / "shim.so"
        compiler = shutil.which("cc") or shutil.which("gcc")
        if not compiler:
            raise RuntimeError("the shim needs a C compiler")
        command = [compiler, "-shared", "-fPIC", "-O1", "-o", shim, HERE / "shim.c", "-ldl"]
        subprocess.run(command, check=True)
        environment = {**os.environ, "LD_PRELOAD": str(shim), "OMP_NUM_THREADS": "1"}
        environment |= {
            "TMPDIR": str(folder),
            "XDG_CACHE_HOME": str(folder / "out"),
            "MPLCONFIGDIR": str(folder),  # beside what is compared: torchmetrics imports matplotlib
            "PYTHONHASHSEED": "0",
            "COLUMNS": "1000",
        }
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "command_server.py"), str(shim)],
            env=environment,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(
        self, arguments: list[str], folder: Path, fault: tuple[int, ...] = (0, COUNT, 0, ALL), **of
    ) -> dict[str, Any]:
        """Run one command; `folder` is where operations count, `of` its limits."""
        return self.runs([arguments], folder, fault, **of)[0]

    def runs(
        self,
        commands: list[list[str]],
        folder: Path,
        fault: tuple[int, ...] = (0, COUNT, 0, ALL),
        **limits: int,
    ) -> list[dict[str, Any]]:
        """Run several commands at once."""
        requests = [
            {"arguments": each, "folder": str(folder), "fault": fault, "limits": limits}
            for each in commands
        ]
        print(json.dumps(requests), file=self._process.stdin, flush=True)
        answers: list[dict[str, Any]] = json.loads(self._process.stdout.readline())
        return answers

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


# What may differ between two runs of one command: where, when, how fast.
_VOLATILE = {"places", "id", "seconds", "knn_seconds", "images_per_s", "data_wait"}


def snapshot(folder: Path) -> dict[str, str]:
    """Return a hash for every file and folder below one, hidden ones as well; without caches."""
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix != ".lookup"]
    return {
        str(path.relative_to(folder)): "" if path.is_dir() else _hash(path)
        for path in paths
        if path.relative_to(folder).as_posix() not in ("ccrop", "ccrop/boxes")
    }


def _hash(path: Path) -> str:
    content = path.read_bytes()
    if path.name in ("run.json", "metrics.jsonl"):
        lines = content.splitlines() if path.suffix == ".jsonl" else [content]
        records = [x for x in map(json.loads, lines) if x.get("stage") != "start"]
        kept = [{k: v for k, v in x.items() if k not in _VOLATILE} for x in records]
        content = json.dumps(kept, sort_keys=True).encode()
    elif path.suffix == ".pt":
        content = _plain(torch.load(path, weights_only=True))
    return hashlib.sha256(content).hexdigest()


def _plain(value: Any) -> bytes:
    """Return the content of a checkpoint: bytes of the file also tell how its memory was cut."""
    if isinstance(value, torch.Tensor):
        return f"{value.dtype}{tuple(value.shape)}".encode() + value.numpy().tobytes()
    if isinstance(value, dict):
        return b"{%s}" % b",".join(repr(k).encode() + b":" + _plain(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return b"[%s]" % b",".join(map(_plain, value))
    return repr(value).encode()


def judge_fault(fault: Fault, done: dict[str, Any], out: Path) -> str | None:
    """Return what is wrong with how a command ended that met a fault; None where nothing is."""
    status, output = done["status"], done["output"]
    if status == "hangs":
        return "it hangs"
    if fault.mode in (KILL, TEAR, POWER):
        return None if status in (-9, 0) else f"status {status}: {output[-300:]}"
    if "Traceback" in output:
        return "traceback: " + output.strip().splitlines()[-1]
    if status == 0:
        return None
    if fault in LACKS:
        return f"not without it: {output[-300:]}"
    if status != 1:
        return f"status {status}: {output[-300:]}"
    message = " ".join(output[output.rfind("Error: ") :].split())
    if output.count("Error: ") != 1:
        return f"no single message: {output[-300:]}"
    if os.strerror(fault.error).lower() not in message.lower():
        return f"the cause is not named: {message}"
    if str(out) not in message:
        return f"no file is named: {message}"
    return None


def judge_strait(done: dict[str, Any]) -> str | None:
    """Return what is wrong with how a command ended in a strait; None where nothing is."""
    status, output = done["status"], done["output"]
    if "Traceback" in output:
        return "traceback: " + output.strip().splitlines()[-1]
    # Without memory, a library may end the process; what counts is then what it left.
    if isinstance(status, int) and status <= 0:
        return None
    if status != 1 or output.count("Error: ") != 1:
        return f"status {status}: {output[-300:]}"
    return None


def judge_end(
    done: dict[str, Any], expected: dict[str, str], out: Path, *, undeletable: bool = False
) -> str | None:
    """Return what is wrong after the same command was run again; None where nothing is."""
    if done["status"] != 0:
        last = done["output"][done["output"].rfind("Error: ") :]
        return f"run again, status {done['status']}: {' '.join(last.split())[-300:]}"
    found = snapshot(out)
    if found == expected:
        return None
    # What the fault itself forbade to remove may stay until somebody writes the same file again.
    kept = {name for name in found if undeletable and Path(name).name.startswith(".")}
    more = sorted(found.keys() - expected.keys() - kept)
    less = sorted(expected.keys() - found.keys())
    other = sorted(name for name in found.keys() & expected.keys() if found[name] != expected[name])
    if not (more or less or other):
        return None
    words = {"left over": more, "lacking": less, "different": other}
    return "run again, " + "; ".join(f"{word} {names}" for word, names in words.items() if names)
