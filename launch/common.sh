# What the launchers share. Sets $root and $bin.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bin=${MOE_TASKS_BIN:-$root/.venv/bin}

fail() {
  echo "error: $*" >&2
  exit 2
}

[[ -x $bin/torchrun ]] || fail "no environment yet: run 'make install' in $root"

# arguments: the overrides with the engine, and with the run folder, which must be fixed before the
# processes start because each would name it after its own clock.
overrides() {
  local argument name=train has_folder="" has_engine=""
  arguments=()
  for argument in "$@"; do
    case $argument in
      --local_rank* | --local-rank*) continue ;; # a launcher's, not ours
      -m | --multirun) fail "a sweep starts one job after the other; call this script once for each" ;;
      run_dir=*) has_folder=1 ;;
      engine=*) has_engine=1 ;;
      +experiment=*) name=${argument#+experiment=} ;;
    esac
    arguments+=("$argument")
  done
  [[ -n $has_engine ]] || arguments=(engine=deepspeed "${arguments[@]}")
  [[ -n $has_folder ]] || arguments+=("run_dir=runs/$name/$(date +%Y-%m-%d_%H-%M-%S)")
}

# Print a command, then become it.
show() {
  printf '+' >&2
  printf ' %q' "$@" >&2
  printf '\n' >&2
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
  export TORCH_CPP_LOG_LEVEL=${TORCH_CPP_LOG_LEVEL:-ERROR} # no stack traces beside our errors
  exec "$@"
}
