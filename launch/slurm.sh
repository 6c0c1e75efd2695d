#!/usr/bin/env bash
# sbatch --nodes 2 --gpus-per-node 8 launch/slurm.sh [key=value ...]: one torchrun per node, and on
# each as many processes as it has GPUs (PROCESSES sets another number). run_dir must be on a file
# system that all nodes share.
#SBATCH --job-name=moe_tasks
#SBATCH --ntasks-per-node=1
#SBATCH --signal=TERM@120
set -euo pipefail
# sbatch runs a copy of this file, from the folder that it was called in.
root=${MOE_TASKS_ROOT:-${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/..}}
source "$root/launch/common.sh"

[[ -n ${SLURM_JOB_NODELIST:-} ]] || fail "start this with sbatch"
overrides "$@"
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
processes=${PROCESSES:-${SLURM_GPUS_ON_NODE:-1}}
show srun --kill-on-bad-exit=1 "$bin/python" -m moe_tasks.engines.torchrun \
  --nnodes "$SLURM_JOB_NUM_NODES" \
  --nproc-per-node "$processes" --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d \
  --rdzv-endpoint "$first:${PORT:-29500}" --max-restarts 0 \
  --module moe_tasks.train "${arguments[@]}"
