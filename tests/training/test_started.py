import pytest

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.training import Started


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Started("alone", 1, 1)),
        ({"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}, Started("torchrun", 8, 2)),
        ({"WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}, Started("torchrun", 1, 1)),
        (
            {"SLURM_STEP_NUM_TASKS": "6", "SLURM_STEP_NUM_NODES": "3", "SLURM_NTASKS": "6"},
            Started("slurm", 6, 3),
        ),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NUM_NODES": "1"}, Started()),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, Started()),  # a batch script, no srun
    ],
)
def test_what_the_environment_says(environment, expected):
    assert Started.from_environment(environment) == expected


def test_machines_with_different_numbers_of_processes_are_refused():
    with pytest.raises(CcropError, match="same number"):
        Started.from_environment({"WORLD_SIZE": "7", "LOCAL_WORLD_SIZE": "4"})
