# Makes the virtual environment .venv of this checkout, once per change of setup.cfg. The other scripts source it; in your
# own shell run it, because it stops the shell at errors.
# Usage: bash scripts/environment.sh EXTRAS [lowest]       (e.g. "demo"; with `lowest`, .venv-lowest with the oldest
# versions that setup.cfg allows)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=".venv${2:+-$2}"
stamp="$venv/installed-$1-$(cksum <setup.cfg | cut -d' ' -f1)"
if [ ! -f "$stamp" ]; then
    echo "Installing farl_hf[$1] into $venv (a few minutes, once)"
    "${PYTHON:-python3}" -m venv "$venv"
    if [ "${2:-}" = lowest ]; then
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check uv
        "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --resolution lowest-direct --editable ".[$1]"
    else
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".[$1]"
    fi
    touch "$stamp"
fi
