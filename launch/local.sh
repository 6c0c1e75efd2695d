#!/usr/bin/env bash
# launch/local.sh N [key=value ...]: N processes on this machine, e.g. launch/local.sh 2 +experiment=fewshot
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[[ ${1:-} =~ ^[1-9][0-9]*$ ]] || fail "usage: launch/local.sh N [key=value ...]"
processes=$1
shift
overrides "$@"
show "$bin/python" -m moe_tasks.engines.torchrun --standalone --nnodes 1 \
  --nproc-per-node "$processes" --max-restarts 0 \
  --module moe_tasks.train "${arguments[@]}"
