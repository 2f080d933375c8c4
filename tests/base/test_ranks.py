"""Which shards a process takes, by flags, torchrun and SLURM."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccrop_pipeline.base import Share
from ccrop_pipeline.base.ranks import own_gpu
from ccrop_pipeline.errors import CcropError


@given(st.integers(0, 40), st.integers(1, 12))
def test_shares_are_disjoint_complete_and_equal(shards, world_size):
    names = [f"s-{i}" for i in range(shards)]
    parts = [Share(rank, world_size).of(names) for rank in range(world_size)]
    assert sorted(name for part in parts for name in part) == sorted(names)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert all(list(part) == sorted(part, key=names.index) for part in parts)


@pytest.mark.parametrize(("rank", "world_size"), [(-1, 2), (2, 2), (0, 0), (0, -1)])
def test_there_is_no_such_share(rank, world_size):
    with pytest.raises(ValueError, match="rank"):
        Share(rank, world_size)
    with pytest.raises(CcropError, match=f"--rank {rank} and --world-size {world_size}"):
        Share.from_environment(rank, world_size, {})


TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
STEP = {"SLURM_PROCID": "2", "SLURM_NTASKS": "5"}


def array(index, first, last, count):
    values = {"ID": index, "MIN": first, "MAX": last, "COUNT": count}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


@pytest.mark.parametrize(
    ("environment", "share"),
    [
        ({}, (0, 1)),
        ({"RANK": "", "WORLD_SIZE": ""}, (0, 1)),
        (TORCHRUN, (3, 8)),
        (TORCHRUN | STEP, (3, 8)),
        (STEP, (2, 5)),
        ({"SLURM_PROCID": "0"}, (0, 1)),
        (array(0, 0, 9, 10), (0, 10)),
        (array(10, 1, 10, 10), (9, 10)),
        (array(6, 2, 8, 4), (2, 4)),
        (array(7, 7, 7, 1), (0, 1)),
        # Ranks 0 to 4 are of the first job, 5 to 9 of the second, 10 to 14 of the third.
        (array(2, 0, 2, 3) | STEP, (12, 15)),
    ],
)
def test_the_environment_tells_the_share(environment, share):
    found = Share.from_environment(environment=environment)
    assert (found.rank, found.world_size) == share


def test_flags_go_before_the_environment():
    assert Share.from_environment(1, 2, TORCHRUN | STEP) == Share(1, 2)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "1"}, "RANK is given without WORLD_SIZE"),
        ({"WORLD_SIZE": "1"}, "WORLD_SIZE is given without RANK"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK is 'one' and no integer"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK 2 and WORLD_SIZE 2 name no share"),
        ({"SLURM_NTASKS": "4"}, "without SLURM_PROCID"),
        (array(4, 0, 7, 4), "task 4 in a SLURM array of 4"),
        (array(1, 0, 6, 4), "--array=0-9"),
        (array(9, 0, 6, 4), "--array=0-9"),
        ({"SLURM_ARRAY_TASK_ID": "3"}, "not clear"),
    ],
)
def test_what_is_not_clear_is_refused_with_what_to_do(environment, message):
    with pytest.raises(CcropError, match=message):
        Share.from_environment(environment=environment)


@pytest.mark.parametrize(("flags", "missing"), [((1, None), "--world-size"), ((None, 2), "--rank")])
def test_one_flag_needs_the_other(flags, missing):
    with pytest.raises(CcropError, match=f"without {missing}"):
        Share.from_environment(*flags, {})


def test_a_world_of_arrays_of_steps_leaves_nothing_out():
    shares = {
        Share.from_environment(
            environment=array(job, 0, 6, 4) | {"SLURM_PROCID": str(task), "SLURM_NTASKS": "3"}
        )
        for job in (0, 2, 4, 6)
        for task in range(3)
    }
    assert shares == {Share(rank, 12) for rank in range(12)}


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
