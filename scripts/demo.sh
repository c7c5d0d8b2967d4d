#!/usr/bin/env bash
# Makes the environment and runs the demonstration. Arguments go to scripts/demo.py: bash scripts/demo.sh --quick
source "$(dirname "$0")/environment.sh" demo

.venv/bin/python scripts/demo.py "$@"
