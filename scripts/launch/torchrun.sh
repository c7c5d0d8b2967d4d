#!/usr/bin/env bash
# Several machines without a scheduler. The same line on each, only NODE_RANK (0, 1, ...) differs:
#   NODES=4 NODE_RANK=0 HEAD=10.0.0.1 bash scripts/launch/torchrun.sh --train_shards '/data/{00000..01999}.tar' ...
set -euo pipefail
exec torchrun --nnodes "${NODES:-1}" --nproc_per_node "${GPUS:-8}" --node_rank "${NODE_RANK:-0}" \
    --rdzv_backend c10d --rdzv_endpoint "${HEAD:-localhost}:${PORT:-29500}" --max_restarts 0 \
    "$(dirname "$0")/../pretrain.py" --mixed_precision bf16 "$@"
