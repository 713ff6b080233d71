#!/usr/bin/env bash
# A run on SLURM: Ray over the nodes of one job, then the run, which goes on in the next job when the time is up.
#   CONFIG=cellsemi.yaml RUN=cells ROUNDS=3 sbatch docs/cluster/slurm.sh
#SBATCH --job-name=cellsemi
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
#SBATCH --open-mode=append
#SBATCH --output=cellsemi-%j.log
# --signal: this script gets SIGTERM two minutes before the time is up, and passes it to the run. The run writes last
# checkpoints and ends with 143; the job is then put back into the queue, and the same command goes on where it stopped.
set -euo pipefail

config=${CONFIG:-cellsemi.yaml} run=${RUN:-cells} rounds=${ROUNDS:-3}
root=${ROOT:-$PWD/runs} # on storage that all nodes see
# HEAD_IP: where the first node has several addresses, the one that the others reach
python=${PYTHON:-python3}
options=(--config "$config" --run "$run" --set "run.root=$root")

# Only who knows the token may use this Ray. Nobody else may read it.
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
export RAY_AUTH_TOKEN_PATH=$root/.ray-token-$SLURM_JOB_ID
mkdir -p "$root"
(umask 077 && "$python" -c 'import secrets; print(secrets.token_hex(32), end="")' >"$RAY_AUTH_TOKEN_PATH")

steps=() driver=
clean_up() {
    kill "${steps[@]}" 2>/dev/null || true # `ray stop` would also end what is not ours
    wait "${steps[@]}" 2>/dev/null || true
    rm -f "$RAY_AUTH_TOKEN_PATH"
}
trap clean_up EXIT

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
first=${nodes[0]}
host=${HEAD_IP:-$(srun --nodes=1 --ntasks=1 --nodelist="$first" hostname -I | awk '{print $1}')}
port=$((20000 + SLURM_JOB_ID % 20000))
each=(--num-cpus="${SLURM_CPUS_PER_TASK:-1}" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --disable-usage-stats --block)

srun --nodes=1 --ntasks=1 --nodelist="$first" \
    ray start --head --node-ip-address="$host" --port="$port" --include-dashboard=false "${each[@]}" &
steps+=($!)
for _ in $(seq 60); do
    ray health-check --address "$host:$port" >/dev/null 2>&1 && break
    kill -0 "${steps[0]}" || exit 1 # the head has ended: its message is above
    sleep 2
done
if [ "${#nodes[@]}" -gt 1 ]; then
    srun --nodes=$((${#nodes[@]} - 1)) --ntasks=$((${#nodes[@]} - 1)) --exclude="$first" \
        ray start --address="$host:$port" "${each[@]}" &
    steps+=($!)
fi

terminated=
trap 'terminated=1; kill -TERM "$driver" 2>/dev/null || true' TERM
run_here() { # in the background, so that the trap is served at once; its exit code is the command's
    "$@" &
    driver=$! code=0
    wait "$driver" || code=$?
    while kill -0 "$driver" 2>/dev/null; do # the wait was ended by SIGTERM: the run is still writing its checkpoints
        code=0
        wait "$driver" || code=$?
    done
}
# A node that cannot do the work is named here; the run goes on without it.
run_here cellsemi cluster check --address "$host:$port" --nodes "${#nodes[@]}" "${options[@]}"
if [ -z "$terminated" ]; then
    run_here cellsemi round --n "$rounds" --address "$host:$port" "${options[@]}"
fi
if [ -n "$terminated" ] && [ "$code" -ne 0 ]; then
    code=143
fi
if [ "$code" -eq 143 ]; then
    echo "put back into the queue: the run goes on where it stopped"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
