# Makes the virtual environment .venv of this checkout, once per change of setup.cfg. Sourced by the other scripts.
# Usage: source scripts/environment.sh EXTRAS        (e.g. "demo" or "test,demo")
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

stamp=".venv/installed-$1-$(cksum <setup.cfg | cut -d' ' -f1)"
if [ ! -f "$stamp" ]; then
    echo "Installing farl_hf[$1] into .venv (a few minutes, once)"
    "${PYTHON:-python3}" -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[$1]"
    touch "$stamp"
fi
