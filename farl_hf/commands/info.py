"""`farl info FOLDER`: what a saved model is."""

import argparse
import json
import math
import struct
from pathlib import Path
from typing import Any

NAME, SUMMARY = "info", "what the model in a folder is: task, sizes, classes, recipe of its crops"
DESCRIPTION = "Tell what the model in FOLDER is, from its JSON files and the heads of its weights."
EXAMPLES = """\
examples:
  farl info farl-lapa
  farl info farl-lapa --json
"""

_TASKS = {
    "FaRLModel": "dual encoder of images and captions",
    "FaRLForPreTraining": "dual encoder with the masked-image branch",
    "FaRLForFaceParsing": "face parsing (farl parse)",
    "FaRLForFaceAlignment": "face alignment (farl align)",
    "FaRLForImageClassification": "face attributes (farl attributes)",
}
_RECIPE = ("align", "size", "warp_factor", "target_face_scale", "convention")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="folder of a saved model, or farl-tiny-...")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(arguments: argparse.Namespace) -> int:
    folder = Path(arguments.folder)
    if not folder.exists():
        # Imports torch, which a folder does not need.
        from ..weights import model_folder

        folder = Path(model_folder(arguments.folder))
    facts = describe_folder(folder)
    if arguments.json:
        print(json.dumps(facts, indent=2))
        return 0
    for name, value in facts.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        print(f"{name:<12} {shown:,}" if isinstance(shown, int) else f"{name:<12} {shown}")
    return 0


def describe_folder(folder: Path) -> dict[str, Any]:
    """The facts that `farl info` prints."""
    config = _read_json(folder / "config.json")
    if config is None:
        raise FileNotFoundError(f"{folder} has no config.json: it is not the folder of a saved model.")
    architecture = (config.get("architectures") or ["unknown"])[0]
    vision = config.get("vision_config") or config
    facts: dict[str, Any] = {"model": architecture, "task": _TASKS.get(architecture, "unknown")}
    for name, key in (("image size", "image_size"), ("patch size", "patch_size"), ("layers", "num_hidden_layers")):
        if key in vision:
            facts[name] = vision[key]
    if "hidden_size" in vision:
        facts["width"] = vision["hidden_size"]
    if architecture == "FaRLForFaceAlignment":
        facts["landmarks"] = config.get("num_landmarks", 68)
    elif architecture in ("FaRLForFaceParsing", "FaRLForImageClassification"):
        names = config.get("id2label") or {}
        facts["classes"] = [names[key] for key in sorted(names, key=int)]
    shapes = [shape for path in sorted(folder.glob("*.safetensors")) for shape in _tensor_shapes(path)]
    if shapes:
        facts["parameters"] = sum(math.prod(shape) for shape in shapes)
        facts["weights"] = f"{sum(path.stat().st_size for path in folder.glob('*.safetensors')) / 1e6:,.1f} MB"
    processor = _read_json(folder / "preprocessor_config.json") or {}
    if "align" in processor:
        facts["crop"] = [f"{key} {processor[key]}" for key in _RECIPE if key in processor]
    return facts


def _read_json(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.is_file() else None


def _tensor_shapes(path: Path) -> list[list[int]]:
    """Shapes of the tensors of a safetensors file, from its head: a length and that many bytes of JSON."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        head = json.loads(file.read(length))
    return [entry["shape"] for name, entry in head.items() if name != "__metadata__"]
