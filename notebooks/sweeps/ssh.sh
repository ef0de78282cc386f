#!/usr/bin/env bash
# Workers on other machines, reached by SSH. Tried with one machine under two names.
# They need the same folders and packages under the same paths (a shared file system), and SSH without a password.
# Usage: notebooks/sweeps/ssh.sh "host1 host2" notebooks/05_baselines.ipynb --grid notebooks/sweeps/grid.yaml --out runs/NAME
set -euo pipefail
hosts=$1; shift
here=$(hostname -f)
.venv/bin/dask scheduler --host "$here" --port 8786 & scheduler=$!
trap 'kill "$scheduler"' EXIT   # the workers end with it
for host in $hosts; do
    # With GPUs: one worker for each, with CUDA_VISIBLE_DEVICES=N before it and --resources GPU=1 behind it.
    ssh "$host" "cd '$PWD' && OMP_NUM_THREADS=4 .venv/bin/dask worker tcp://$here:8786 --nworkers 4 --nthreads 1 \
        --memory-limit 0 --death-timeout 60" &
done
.venv/bin/python -m ptlib.sweep "$@" --scheduler "tcp://$here:8786"
