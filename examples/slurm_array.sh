#!/usr/bin/env bash
# Boxes on a SLURM cluster: an array of jobs, each with a GPU and every 16th shard.
#
#     sbatch --array=0-15 examples/slurm_array.sh 's3://bucket/train-{000000..000999}.tar' boxes runs/first
#
# Tasks need not start together, or at all at once (--array=0-15%4). One that was killed or ran out of
# time is put back into the queue and takes up its work; whoever finds all shards there writes the
# manifest. To start failed tasks again by hand, submit the whole array again: the others end at once.
#SBATCH --job-name=ccrop-boxes
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-task=1
#SBATCH --ntasks=1
#SBATCH --mem=16G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --output=ccrop-%A_%a.log
set -euo pipefail
source=$1 out=$2 model=$3

# The portion of a job comes from SLURM_ARRAY_TASK_ID and its companions.
exec ccrop boxes compute "$source" "$out" --model "$model" --threads "${SLURM_CPUS_PER_TASK:-8}"
