#!/usr/bin/env bash
# launch/deepspeed.sh HOSTFILE [key=value ...]: the processes that a host file names ("node1 slots=8"
# per line), started over ssh by DeepSpeed's launcher. This checkout must be on every node, in the
# same place, and run_dir on a file system that all share.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[[ -f ${1:-} ]] || fail "usage: launch/deepspeed.sh HOSTFILE [key=value ...]"
hosts=$1
shift
overrides "$@"
export PATH="$bin:$PATH" # where the launcher looks for Python on the other nodes
alone=()
[[ $(grep -cvE '^[[:space:]]*(#|$)' "$hosts") -gt 1 ]] || # this machine: it need not reach itself
  alone=(--no_ssh_check --master_addr 127.0.0.1)
show "$bin/deepspeed" --hostfile "$hosts" "${alone[@]}" --master_port "${PORT:-29500}" \
  --log_level critical --no_local_rank --module moe_tasks.train "${arguments[@]}"
