#!/bin/bash
# A comparison as a job array, without Ray: sbatch --array=1-10 docs/cluster/slurm_array.sh CONFIG
# Each task trains a part of the runs in a folder of its own. Afterwards:
#     normbench merge part-*/* -o runs/whole && normbench report runs/whole
#SBATCH --job-name=normbench
#SBATCH --gpus=1
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@120
set -euo pipefail

config=${1:?usage: sbatch --array=1-N slurm_array.sh CONFIG}
exec normbench compare "$config" \
    --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" \
    --runs-dir "part-$SLURM_ARRAY_TASK_ID"
