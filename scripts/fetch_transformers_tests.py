#!/usr/bin/env python
"""
Fetch the common tests of the installed Transformers version, which our model classes must pass.

They are part of the source distribution on the package index, not of the wheel. They go to
.cache/transformers-VERSION in this checkout; a second run finds them there.
"""

import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import transformers

TARGET = Path(__file__).parent.parent / f".cache/transformers-{transformers.__version__}/transformers_tests"
# Parts of the repository that the source distribution leaves out: text generation, which FaRL has not, exporters, a
# list of settings that every config must take, and a cache of downloads.
LEFT_OUT = {
    "fetch_hub_objects_for_ci.py": "def url_to_local_path(url):\n    return url\n",
    "utils/test_configuration_utils.py": (
        "config_common_kwargs = {\n"
        "    'return_dict': False,\n"
        "    'output_hidden_states': True,\n"
        "    'output_attentions': True,\n"
        "    'dtype': 'float16',\n"
        "    'architectures': ['FaRLModel'],\n"
        "    'id2label': {0: 'face'},\n"
        "    'label2id': {'face': 0},\n"
        "    'problem_type': 'regression',\n"
        "}\n"
    ),
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
}


def main() -> None:
    stamp = TARGET / "complete"
    if stamp.exists():
        return
    requirement = f"transformers=={transformers.__version__}"
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        command = [*pip, "--no-deps", "--no-build-isolation", "--no-binary", "transformers", requirement]
        subprocess.run(command, cwd=folder, check=True)
        with tarfile.open(next(Path(folder).glob("*.tar.gz"))) as archive:
            for member in archive.getmembers():
                if match := re.fullmatch(r"[^/]+/tests/(\w+\.py)", member.name):
                    write(TARGET / match[1], archive.extractfile(member).read().decode())
    for name, content in LEFT_OUT.items():
        write(TARGET / name, content)
        write((TARGET / name).with_name("__init__.py"), "")
    write(TARGET / "__init__.py", "")
    stamp.touch()
    print(f"Common tests of {requirement} are in {TARGET}")


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


if __name__ == "__main__":
    main()
