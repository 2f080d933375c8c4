"""Who a process is, by arguments, torchrun and SLURM, and which shards it takes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccrop_pipeline.base.ranks import ALONE, Ranks, own_gpu
from ccrop_pipeline.errors import CcropError


@pytest.mark.slow
@given(st.integers(0, 40), st.integers(1, 12))
def test_portions_are_disjoint_complete_and_equal(shards, world_size):
    names = [f"s-{i}" for i in range(shards)]
    parts = [Ranks(rank, world_size).portion(names) for rank in range(world_size)]
    assert sorted(name for part in parts for name in part) == sorted(names)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert all(list(part) == sorted(part, key=names.index) for part in parts)


@pytest.mark.parametrize(("rank", "world_size"), [(-1, 2), (2, 2), (0, 0), (0, -1)])
def test_there_is_no_such_rank(rank, world_size):
    message = f"rank is {rank} and the world size {world_size}"
    with pytest.raises(CcropError, match=message):
        Ranks(rank, world_size)
    with pytest.raises(CcropError, match=message):
        Ranks.from_environment(rank, world_size, environment={})


TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
STEP = {
    "SLURM_PROCID": "2",
    "SLURM_NTASKS": "6",
    "SLURM_STEP_NUM_TASKS": "6",
    "SLURM_STEP_NUM_NODES": "3",
}
BATCH_SCRIPT = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}  # and no srun


def array(index, first, last, count):
    values = {"ID": index, "MIN": first, "MAX": last, "COUNT": count}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


def step(rank, tasks, nodes=1):
    values = {"PROCID": rank, "STEP_NUM_TASKS": tasks, "STEP_NUM_NODES": nodes}
    return {f"SLURM_{name}": str(value) for name, value in values.items()}


@pytest.mark.parametrize(
    ("environment", "ranks"),
    [
        ({}, ALONE),
        ({"RANK": "", "WORLD_SIZE": ""}, ALONE),
        (TORCHRUN, Ranks(3, 8, 2, "torchrun")),
        (TORCHRUN | STEP, Ranks(3, 8, 2, "torchrun")),
        (
            TORCHRUN | {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"},
            Ranks(started_by="torchrun"),
        ),
        ({"RANK": "3", "WORLD_SIZE": "8"}, Ranks(3, 8, started_by="variables")),
        (STEP, Ranks(2, 6, 3, "slurm")),
        (step(0, 1), ALONE),
        ({"SLURM_PROCID": "0"}, ALONE),
        (BATCH_SCRIPT, ALONE),
        (array(3, 0, 9, 10), ALONE),
        (array(3, 0, 9, 10) | STEP, Ranks(2, 6, 3, "slurm")),
        (array(1, 0, 6, 4), ALONE),
    ],
)
def test_the_environment_tells_the_rank(environment, ranks):
    assert Ranks.from_environment(environment=environment) == ranks


@pytest.mark.parametrize(
    ("environment", "rank", "world_size"),
    [
        ({}, 0, 1),
        (TORCHRUN | array(3, 0, 9, 10), 3, 8),
        (STEP, 2, 6),
        (array(0, 0, 9, 10), 0, 10),
        (array(10, 1, 10, 10), 9, 10),
        (array(6, 2, 8, 4), 2, 4),
        (array(7, 7, 7, 1), 0, 1),
        (array(3, 0, 9, 10) | BATCH_SCRIPT, 3, 10),
        # Ranks 0 to 5 are of the first job, 6 to 11 of the second, 12 to 17 of the third.
        (array(2, 0, 2, 3) | STEP, 14, 18),
    ],
)
def test_the_jobs_of_an_array_work_together_where_they_are_to(environment, rank, world_size):
    found = Ranks.from_environment(array=True, environment=environment)
    assert (found.rank, found.world_size) == (rank, world_size)


def test_each_machine_has_as_many_processes_as_any_other():
    assert Ranks(5, 8, 2).local_world_size == 4
    with pytest.raises(CcropError, match="7 processes of which this machine has 4"):
        Ranks.from_environment(environment=TORCHRUN | {"WORLD_SIZE": "7"})
    with pytest.raises(CcropError, match="5 processes on 2 machines"):
        Ranks.from_environment(environment=step(0, 5, nodes=2))


def test_arguments_go_before_the_environment():
    told = Ranks.from_environment(1, 2, environment=TORCHRUN | STEP)
    assert told == Ranks(1, 2, started_by="arguments")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "1"}, "RANK is given without WORLD_SIZE"),
        ({"WORLD_SIZE": "1"}, "WORLD_SIZE is given without RANK"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK is 'one', no integer"),
        (TORCHRUN | {"WORLD_SIZE": "x"}, "WORLD_SIZE is 'x', no integer"),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "0"}, "same number"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "rank is 2 and the world size 2"),
        ({"SLURM_STEP_NUM_TASKS": "4"}, "without SLURM_PROCID"),
        (array(4, 0, 7, 4), "task 4 in a SLURM array of 4"),
        (array(1, 0, 6, 4), "--array=0-9"),
        (array(9, 0, 6, 4), "--array=0-9"),
        ({"SLURM_ARRAY_TASK_ID": "3"}, "not clear"),
    ],
)
def test_what_is_not_clear_is_refused_with_what_to_do(environment, message):
    with pytest.raises(CcropError, match=message):
        Ranks.from_environment(array=True, environment=environment)


@pytest.mark.parametrize(
    ("numbers", "missing"), [((1, None), "`world_size`"), ((None, 2), "`rank`")]
)
def test_one_argument_needs_the_other(numbers, missing):
    with pytest.raises(CcropError, match=f"without {missing}"):
        Ranks.from_environment(*numbers, environment={})


def test_a_world_of_arrays_of_steps_leaves_nothing_out():
    worlds = [
        Ranks.from_environment(array=True, environment=array(job, 0, 6, 4) | step(task, 3))
        for job in (0, 2, 4, 6)
        for task in range(3)
    ]
    assert [(each.rank, each.world_size) for each in worlds] == [(rank, 12) for rank in range(12)]


@pytest.mark.parametrize(
    ("gpus", "environment", "own"),
    [
        (8, {}, 0),
        (8, {"LOCAL_RANK": "5"}, 5),
        (8, {"SLURM_LOCALID": "3"}, 3),
        (8, {"LOCAL_RANK": "5", "SLURM_LOCALID": "0"}, 5),
        (1, {"SLURM_LOCALID": "3"}, 0),
        (2, {"LOCAL_RANK": "5"}, 1),
    ],
)
def test_every_process_of_a_machine_has_a_gpu_of_its_own(gpus, environment, own):
    assert own_gpu(gpus, environment) == own
