#!/usr/bin/env bash
# Everything that wants a GPU, once, on one CUDA device: about 8 minutes. Writes gpu_check.json and gpu_check.md.
#   bash scripts/gpu_check.sh                            arguments go to scripts/gpu_check.py
#   bash scripts/gpu_check.sh --device cpu --quick       proves that it runs
source "$(dirname "$0")/environment.sh" test
.venv/bin/python scripts/gpu_check.py "$@"
