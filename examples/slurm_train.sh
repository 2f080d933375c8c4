#!/usr/bin/env bash
# Training on several nodes of a SLURM cluster, one process a GPU.
#
#     sbatch --nodes 2 examples/slurm_train.sh data/photos runs/first mocov2
#
# A job that is killed or runs out of time is put back into the queue and takes up the run after its
# last epoch. RUN must lie on a file system that all nodes share.
#SBATCH --job-name=ccrop-train
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --output=ccrop-train-%j.log
set -euo pipefail
source=$1 run=$2 method=$3

# Every task sees all GPUs of its node and takes the one of its own number. When one dies, srun ends the
# others, which would wait for it.
exec srun --gpu-bind=none --kill-on-bad-exit=1 \
    ccrop train "$source" "$run" --method "$method" --workers "${SLURM_CPUS_PER_TASK:-8}"
