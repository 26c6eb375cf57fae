#!/bin/bash
# A comparison on several nodes of a Slurm cluster: sbatch docs/cluster/slurm.sh CONFIG
# One task a node; `ray symmetric-run` (Ray 2.49 or newer) starts Ray on all of them, runs the command on the first, and
# ends Ray with it. Submitted again after a time limit, it goes on where it stopped.
#SBATCH --job-name=normbench
#SBATCH --nodes=2
#SBATCH --exclusive
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=08:00:00
#SBATCH --signal=TERM@120
set -euo pipefail

config=${1:?usage: sbatch slurm.sh CONFIG}
port=$((20000 + SLURM_JOB_ID % 20000)) # a port of the job's own
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
first=${nodes%%$'\n'*}
export RAY_AUTH_MODE=token # nobody else on the network may send code
RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')
export RAY_AUTH_TOKEN
export RAY_TMPDIR=/tmp/ray-$SLURM_JOB_ID # sockets lie in it, whose paths may have 107 bytes

srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" \
    ray symmetric-run \
    --address "$first:$port" \
    --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus="$SLURM_CPUS_PER_TASK" \
    --num-gpus="${SLURM_GPUS_ON_NODE:-0}" \
    -- normbench compare "$config" --cluster "$first:$port" --runs-dir "${NORMBENCH_RUNS_DIR:-runs}"
