#!/usr/bin/env bash
# Tests and benchmark of a GPU, in five minutes: scripts/gpu_check.sh [FOLDER for what it writes, default .]
# PYTHON=/path/to/python chooses the interpreter; SECONDS_OF_TESTS and SECONDS_OF_BENCH how long each may take.
cd "$(dirname "$0")/.." || exit 1
export PYTHONPATH="$PWD:$PWD/scripts${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
python=${PYTHON:-python3} out=${1:-.}
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
timeout "${SECONDS_OF_TESTS:-120}" "$python" -m pytest -o addopts= -p no:cacheprovider -q -ra --durations=5 \
    tests/test_gpu.py 2>&1 | tee "$out/gpu_tests.txt" | tail -n 60
seconds=${SECONDS_OF_BENCH:-200}
timeout $((seconds + 30)) "$python" scripts/bench_gpu.py --seconds "$seconds" --json "$out/gpu.jsonl" 2>&1 |
    tee "$out/gpu_bench.txt" | cut -c1-900
