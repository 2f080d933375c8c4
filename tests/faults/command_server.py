"""Runs commands of ccrop under the shim, each in a fork: what is imported once serves thousands.

Reads a request a line (a list of runs, all at once) from stdin and answers each with one on stdout.
To be started with the shim preloaded; `torture.py` does.
"""

import asyncio
import contextlib
import ctypes
import functools
import gc
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import lightning_fabric  # noqa: F401
import pyarrow.parquet  # noqa: F401
import torch
import torch.utils.data
import torchvision  # noqa: F401 once for all forks
from ccrop_cli import demo, progress, train_progress  # noqa: F401
from ccrop_cli.main import cli
from PIL import Image
from safetensors import torch as _safetensors  # noqa: F401

from ccrop_pipeline import compute, exchange, export, probes, training  # noqa: F401

SHIM = ctypes.CDLL(sys.argv[1])
SECONDS = 120  # of the processor; more for so little is a hang
WAITING = 1_200  # seconds, on a machine that others use too
SMALL_DEMO = (
    "image_size=32",
    "epochs=2",
    "batch_size=8",
    "boxes.refresh_at=[0.5]",
    "optimizer.lr_warmup_epochs=0",
)


def run(arguments, folder, fault, limits, journal):
    """Be the command, in the fork."""
    sys.argv = ["ccrop", *arguments]
    os.environ["AWS_SDK_UA_APP_ID"] = str(os.getpid())  # a store is told who asks
    demo.DemoSize = functools.partial(demo.DemoSize, 16, 12, SMALL_DEMO)
    if "nofile" in limits:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limits["nofile"],) * 2)
    if "memory" in limits:  # beyond what is mapped already
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + limits["memory"]
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    SHIM.faults_clock(ctypes.c_long(limits.get("clock", 0)))
    n, mode, error, kinds = fault
    SHIM.faults_begin(os.fsencode(folder), ctypes.c_long(n), mode, error, kinds, journal)
    cli(arguments, prog_name="ccrop")


def fork(request):
    """Start a run; return its process and the files of its output."""
    out, journal = (tempfile.TemporaryFile() for _ in range(2))  # noqa: SIM115 till the end
    process = os.fork()
    if process:
        return process, out, journal
    status = 70
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
        run(**request, journal=journal.fileno())
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def spent(process):
    """Return the seconds of the processor that a process has used (proc_pid_stat(5))."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def end_of(process, out, journal):
    """Wait for a run; say how it ended, what it printed and which operations it counted."""
    deadline, status = time.monotonic() + WAITING, None
    while status is None:
        ended, status = os.waitpid(process, os.WNOHANG)
        if not ended and (time.monotonic() > deadline or spent(process) > SECONDS):
            os.kill(process, 9)
            os.waitpid(process, 0)
            return {"status": "hangs", "output": "", "operations": []}
        status = status if ended else time.sleep(0.002)
    texts = []
    for file in (out, journal):
        file.seek(0)
        texts.append(file.read().decode(errors="replace"))
        file.close()
    return {
        "status": os.waitstatus_to_exitcode(status),
        "output": texts[0],
        "operations": texts[1].split(),
    }


def prepare_stores():
    """Import what commands on a store import, and wait a tenth as long before asking again."""
    try:
        from aiobotocore.session import get_session
    except ImportError:
        return
    import s3fs  # noqa: F401

    async def connect():
        async with get_session().create_client("s3", region_name="us-east-1"):
            pass

    asyncio.run(connect())
    wait = asyncio.sleep
    asyncio.sleep = lambda seconds, *more: wait(seconds / 10, *more)


torch.set_num_threads(1)
prepare_stores()
Image.init()
gc.collect()
gc.freeze()
answers = os.fdopen(os.dup(1), "w")
for line in sys.stdin:
    started = [fork(request) for request in json.loads(line)]
    print(json.dumps([end_of(*each) for each in started]), file=answers, flush=True)
