#!/usr/bin/env bash
# From nothing to the weights in the package: draws faces, pre-trains (image-text + masked patches), trains all tasks at
# once, scores, writes the cards, and packs the family into farl_tiny_output/family. A killed run goes on. Arguments go
# to scripts/train_farl_tiny.py: bash scripts/train_farl_tiny.sh --minutes 5 60 60 --drawers 2 --device cuda
source "$(dirname "$0")/environment.sh" synthetic

time .venv/bin/python scripts/train_farl_tiny.py "$@"
echo "To ship: cp -R farl_tiny_output/family/* farl_hf/weights/"
