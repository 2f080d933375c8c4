"""Where the numbers of a run go beside `metrics.jsonl`: TensorBoard, W&B, MLflow, Trackio.

Each finds its server, project and key as it always does, by variables and files of its own. A
resumed run goes on in its run there, which is found by the id in `run.json`.
"""

import json
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from ccrop_pipeline.base import SILENT, Observer
from ccrop_pipeline.base.values import flat
from ccrop_pipeline.errors import CcropError, SettingError, shown
from ccrop_pipeline.training.run import Run

# Takes the epoch and the numbers of a record, by names such as `train/loss`.
Write = Callable[[int, dict[str, float]], None]
_PROJECT: Final = "ccrop"


class Loggers:
    """The loggers of a run; the one that fails is left out from then on, and training goes on.

    Args:
        names: Of `LOGGERS`.
        observer: Told of one that fails.

    Raises:
        CcropError: If one is not known or its package is not installed.
    """

    def __init__(self, names: Sequence[str], observer: Observer = SILENT) -> None:
        self._names, self._observer = tuple(dict.fromkeys(names)), observer
        self._open: dict[str, tuple[AbstractContextManager[Write], Write]] = {}
        for name in self._names:
            _expect_installed(name)

    def open(self, run: Run, settings: Mapping[str, Any], epoch: int) -> None:
        """Begin, or go on.

        Args:
            run: A run that was started.
            settings: Its recipe, as plain values.
            epoch: Epochs trained so far; what was written of later ones is written again.
        """
        for name in self._names:
            with self._guarded(name):
                logger = LOGGERS[name][1](run, settings, epoch)
                self._open[name] = (logger, logger.__enter__())

    def add(self, record: Mapping[str, Any]) -> None:
        """Write the numbers of a record of the metrics."""
        numbers = {
            f"{record['stage']}/{name}": value
            for name, value in record.items()
            if isinstance(value, int | float) and name != "epoch"
        }
        for name, (_, write) in [*self._open.items()]:
            with self._guarded(name):
                write(record["epoch"], numbers)

    def close(self, error: BaseException | None) -> None:
        """End, for the time being.

        Args:
            error: What ended the run; None: it is complete.
        """
        for name, (logger, _) in [*self._open.items()]:
            with self._guarded(name):
                logger.__exit__(type(error) if error else None, error, None)
        self._open.clear()

    @contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of any kind: none is worth a run
            self._open.pop(name, None)
            why = str(error).strip() or type(error).__name__
            self._observer.warning(f"{name} is left out from now on, training goes on: {why}")


@contextmanager
def _tensorboard(run: Run, settings: Mapping[str, Any], epoch: int) -> Iterator[Write]:  # noqa: ARG001
    from torch.utils.tensorboard import SummaryWriter

    def write(epoch: int, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            writer.add_scalar(name, value, epoch)
        writer.flush()

    with SummaryWriter(str(run.folder / "tensorboard"), purge_step=epoch + 1) as writer:
        yield write


@contextmanager
def _wandb(run: Run, settings: Mapping[str, Any], epoch: int) -> Iterator[Write]:  # noqa: ARG001
    import wandb

    there = wandb.init(
        project=os.environ.get("WANDB_PROJECT", _PROJECT),
        id=run.id,
        name=run.folder.name,
        resume="allow",
        config=dict(settings),
        settings=wandb.Settings(console="off"),
    )
    # Its own count of steps never goes back, and epochs do where some are trained again.
    there.define_metric("*", step_metric="epoch")
    try:
        yield lambda epoch, numbers: there.log({"epoch": epoch, **numbers})
    except BaseException:
        there.finish(exit_code=1)
        raise
    there.finish()


@contextmanager
def _mlflow(run: Run, settings: Mapping[str, Any], epoch: int) -> Iterator[Write]:  # noqa: ARG001
    from mlflow.tracking import MlflowClient

    client, tag = MlflowClient(), "ccrop.run"
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
    experiment = client.get_experiment_by_name(name)
    place = experiment.experiment_id if experiment else client.create_experiment(name)
    found = client.search_runs([place], f"tags.`{tag}` = '{run.id}'", max_results=1)
    begun = found or [client.create_run(place, tags={tag: run.id}, run_name=run.folder.name)]
    there = begun[0].info.run_id
    for setting, value in [] if found else flat(settings):
        client.log_param(there, setting, json.dumps(value))
    client.update_run(there, status="RUNNING")

    def write(epoch: int, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            client.log_metric(there, name, value, step=epoch)

    try:
        yield write
    except BaseException:
        client.set_terminated(there, "FAILED")
        raise
    client.set_terminated(there, "FINISHED")


@contextmanager
def _trackio(run: Run, settings: Mapping[str, Any], epoch: int) -> Iterator[Write]:  # noqa: ARG001
    import trackio

    there = trackio.init(
        project=os.environ.get("TRACKIO_PROJECT", _PROJECT),
        name=f"{run.folder.name}-{run.id}",
        resume="allow",
        config=dict(settings),
        embed=False,
    )
    try:
        yield lambda epoch, numbers: there.log(numbers, step=epoch)
    finally:
        trackio.finish()  # as it would at exit, on stdout, which holds results alone


# By name: the package that each needs, and what opens it.
LOGGERS: Final = {
    "tensorboard": ("tensorboard", _tensorboard),
    "wandb": ("wandb", _wandb),
    "mlflow": ("mlflow", _mlflow),
    "trackio": ("trackio", _trackio),
}


def how_to_open(name: str, run: Run) -> str:
    """Return the command that shows what a logger has of a run, or the address where it is."""
    if name == "tensorboard":
        return f"tensorboard --logdir {shlex.quote(str(run.folder / 'tensorboard'))}"
    if name == "wandb":
        if os.environ.get("WANDB_MODE") == "offline":
            folder = Path(os.environ.get("WANDB_DIR", "."), "wandb")
            return f"wandb sync {shlex.quote(str(folder))}/offline-run-*-{run.id}"
        project = os.environ.get("WANDB_PROJECT", _PROJECT)
        return f"{os.environ.get('WANDB_BASE_URL', 'https://wandb.ai')}, project {project}"
    if name == "mlflow":
        from mlflow.tracking import get_tracking_uri

        place = get_tracking_uri()
        served = place.startswith("http")
        return place if served else f"mlflow ui --backend-store-uri {shlex.quote(place)}"
    project = os.environ.get("TRACKIO_PROJECT", _PROJECT)
    space = os.environ.get("TRACKIO_SPACE_ID")
    here = f"trackio show --project {shlex.quote(project)}"
    return f"https://huggingface.co/spaces/{space}, project {project}" if space else here


def _expect_installed(name: str) -> None:
    if name not in LOGGERS:
        raise SettingError(f"`log` is {shown(name)}; known are {', '.join(LOGGERS)}.")
    if find_spec(LOGGERS[name][0]) is None:
        raise CcropError(
            f"`log` is {name!r}, whose package is not installed. Run `pip install "
            f"{name}`, or leave it out: metrics.jsonl has the same numbers."
        )
