#!/usr/bin/env bash
# Makes the environment, runs the linter, the type checker and every test.
#   bash scripts/test.sh -k converter     arguments go to pytest: these tests alone
#   bash scripts/test.sh --lowest         the fast tests with the oldest versions that setup.cfg allows
if [ "${1:-}" = "--lowest" ]; then
    shift
    source "$(dirname "$0")/environment.sh" test lowest
    .venv-lowest/bin/python scripts/fetch_transformers_tests.py
    OMP_NUM_THREADS=1 exec .venv-lowest/bin/python -m pytest --numprocesses 2 "$@"
fi
source "$(dirname "$0")/environment.sh" test

.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/python scripts/fetch_transformers_tests.py
# One thread a worker: tiny models gain nothing from more, and the workers would fight over the cores.
OMP_NUM_THREADS=1 .venv/bin/python -m pytest --numprocesses 2 --durations 15 "$@"
# Full-size networks and memory use all cores, one test after the other.
[ $# -gt 0 ] || .venv/bin/python -m pytest -m slow tests/models/test_golden.py tests/models/test_image_processing_farl.py
# Notebooks, the README's longer blocks, published folders in clean processes.
[ $# -gt 0 ] || OMP_NUM_THREADS=1 .venv/bin/python -m pytest -m slow --numprocesses 2 tests/scripts/test_notebooks.py \
    tests/test_readme.py tests/hub
