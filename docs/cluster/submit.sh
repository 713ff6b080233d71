#!/usr/bin/env bash
# A run on a Ray cluster that is up: the driver runs on its head.
#   RAY_AUTH_TOKEN_PATH=FILE CONFIG=/shared/cellsemi.yaml docs/cluster/submit.sh http://HEAD:8265
# Ray runs a job once. The command goes on where it stopped, so it is sent again when it failed, ATTEMPTS times in all.
set -euo pipefail

dashboard=${1:-http://127.0.0.1:8265}
config=${CONFIG:-/shared/cellsemi.yaml} root=${ROOT:-/shared/runs} rounds=${ROUNDS:-3} run=${RUN:-cells}
attempts=${ATTEMPTS:-3}
export RAY_AUTH_MODE=token

# With a head of --num-cpus=0 the driver must reserve nothing: no --entrypoint-num-cpus.
command=(cellsemi round --n "$rounds" --config "$config" --run "$run" --set "run.root=$root")
for attempt in $(seq "$attempts"); do
    if ray job submit --address "$dashboard" -- "${command[@]}"; then
        exit 0
    fi
    echo "attempt $attempt of $attempts has failed" >&2
done
exit 1
