"""
Our own small weights, `farl-tiny`, trained on generated faces only (MIT, weights included), and how to get at them.

The models of the family share their vision tower and more. The package keeps what is shared once (`family.json` says
which files make up which model) and puts complete folders together when they are first asked for, so that the whole
family is small and every folder is an ordinary one. May import no other room.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

# A folder that `pack_family` wrote, to use in the place of the weights in the package.
WEIGHTS_VARIABLE = "FARL_WEIGHTS"
_INDEX = "family.json"


def pretrained(name: str = "farl-tiny") -> str:
    """
    The local folder of one of the package's own small models, for `from_pretrained` and `pipeline`. Needs no network.

    ```python
    >>> parser = AutoModelForSemanticSegmentation.from_pretrained(farl_hf.pretrained("farl-tiny-parsing"))
    ```

    | name | what it is |
    | --- | --- |
    | `farl-tiny` | dual encoder of images and captions |
    | `farl-tiny-parsing` | face parsing, LaPa's 11 classes |
    | `farl-tiny-parsing-celebamask-hq` | face parsing, CelebAMask-HQ's 19 classes |
    | `farl-tiny-alignment` | 68 landmarks (300W) |
    | `farl-tiny-alignment-wflw` | 98 landmarks (WFLW) |
    | `farl-tiny-attributes` | those of CelebA's attributes that generated faces define |

    Folders are put together below `HF_HOME` (`~/.cache/huggingface`) at the first call and found there afterwards;
    other weights never take the place of older ones. Larger official models are one `farl convert` away.

    Args:
        name: One of the table.

    Returns:
        Path of a complete folder: config, weights (safetensors, float16, loaded as float32), processor and card.

    Raises:
        ValueError: If the name is unknown.
        FileNotFoundError: If the folder named by `FARL_WEIGHTS` is no family of weights.
    """
    source = Path(os.environ.get(WEIGHTS_VARIABLE) or Path(__file__).parent)
    family = _read_index(source)
    if name not in family:
        raise ValueError(f"Unknown weights {name!r}: choose one of {', '.join(family)}.")
    files = [source / part for part in family[name]]
    files += sorted(path for path in (source / name).iterdir() if path.suffix != ".safetensors")
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    folder = Path(constants.HF_HOME) / "farl_hf" / digest.hexdigest()[:16] / name
    if not folder.is_dir():
        _assemble(files, folder)
    return str(folder)


def model_folder(name: str | Path) -> str:
    """Where `from_pretrained` finds a model: the package's own weights by their name, anything else as it is."""
    if Path(name).is_dir():
        return str(name)
    try:
        return pretrained(str(name))
    except (ValueError, FileNotFoundError):
        return str(name)


def _read_index(source: Path) -> dict[str, list[str]]:
    path = source / _INDEX
    if not path.is_file():
        raise FileNotFoundError(f"{source} has no {_INDEX}: it is no family of weights as `pack_family` writes it.")
    return json.loads(path.read_text())


def _assemble(files: list[Path], folder: Path) -> None:
    """Writes one complete folder; several processes may do so at once."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".assembling-") as temporary:
        made = Path(temporary) / folder.name
        made.mkdir()
        tensors: dict[str, torch.Tensor] = {}
        for path in files:
            if path.suffix == ".safetensors":
                tensors |= load_file(path)
            else:
                shutil.copy(path, made)
        save_file(tensors, made / "model.safetensors", metadata={"format": "pt"})
        try:
            made.rename(folder)
        except OSError:
            # Another process was faster; its folder is the same.
            if not folder.is_dir():
                raise


def pack_family(folders: Mapping[str, str | Path], output: str | Path) -> Path:
    """
    Writes complete folders of models as one family: tensors that several of them share are kept once.

    Args:
        folders: Name -> folder with `config.json`, one `model.safetensors` and whatever else belongs to the model.
        output: Folder of the family, replaced if it is one.

    Returns:
        `output`.

    Raises:
        FileExistsError: If `output` is a folder of something else.
    """
    output = Path(output)
    if output.is_dir() and any(output.iterdir()):
        if not (output / _INDEX).is_file():
            raise FileExistsError(f"{output} is not empty and no family of weights: name another folder.")
        for name in _read_index(output):
            shutil.rmtree(output / name, ignore_errors=True)
        for path in output.glob("*.safetensors"):
            path.unlink()
    weights = {name: load_file(Path(folder) / "model.safetensors") for name, folder in folders.items()}
    owners: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, tensors in weights.items():
        for key, tensor in tensors.items():
            owners[key, _fingerprint(tensor)].append(name)
    groups: dict[tuple[str, ...], dict[str, torch.Tensor]] = defaultdict(dict)
    for (key, _), names in owners.items():
        groups[tuple(names)][key] = weights[names[0]][key]
    index: dict[str, list[str]] = {name: [] for name in folders}
    for name, folder in folders.items():
        (output / name).mkdir(parents=True)
        for path in Path(folder).iterdir():
            if path.is_file() and path.name != "model.safetensors":
                shutil.copy(path, output / name)
    shared = 0
    for owning, tensors in groups.items():
        if len(owning) == 1:
            part = f"{owning[0]}/own.safetensors"
        else:
            shared += 1
            part = f"shared-{shared}.safetensors"
        save_file(tensors, output / part, metadata={"format": "pt"})
        for name in owning:
            index[name].append(part)
    (output / _INDEX).write_text(json.dumps(index, indent=2) + "\n")
    return output


def _fingerprint(tensor: torch.Tensor) -> str:
    header = f"{tensor.dtype} {tuple(tensor.shape)} ".encode()
    return hashlib.sha256(header + tensor.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()


__all__ = ["WEIGHTS_VARIABLE", "pack_family", "pretrained"]
