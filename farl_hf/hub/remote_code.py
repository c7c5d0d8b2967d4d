"""Model code beside weights, for `trust_remote_code=True` where this package is not installed."""

import json
import re
import shutil
from pathlib import Path

from ..models.configuration_farl import FaRLConfig

# Which Auto class opens an architecture, beside AutoConfig. FaRLModel serves the first three of a dual encoder.
AUTO_CLASSES: dict[str, dict[str, str]] = {
    "FaRLModel": {
        "AutoModel": "FaRLModel",
        "AutoModelForPreTraining": "FaRLForPreTraining",
        "AutoModelForZeroShotImageClassification": "FaRLModel",
        "AutoBackbone": "FaRLBackbone",
    },
    "FaRLForFaceParsing": {"AutoModelForSemanticSegmentation": "FaRLForFaceParsing"},
    "FaRLForFaceAlignment": {"AutoModelForKeypointDetection": "FaRLForFaceAlignment"},
    "FaRLForImageClassification": {"AutoModelForImageClassification": "FaRLForImageClassification"},
}
AUTO_CLASSES["FaRLForPreTraining"] = AUTO_CLASSES["FaRLModel"]

# Which pipeline of Transformers' `pipeline(task)` an architecture has, beside Transformers' own.
PIPELINES: dict[str, tuple[str, str]] = {
    "FaRLForFaceParsing": ("face-parsing", "FaceParsingPipeline"),
    "FaRLForFaceAlignment": ("face-alignment", "FaceAlignmentPipeline"),
    "FaRLForImageClassification": ("face-attributes", "FaceAttributesPipeline"),
}
# What those import, beside models. A repository's code lies in one folder, so imports of rooms are rewritten.
_PIPELINE_CODE = (
    "inference/pipelines.py",
    "inference/detection.py",
    "inference/head_pose.py",
    "inference/results.py",
    "inference/drawing.py",
    "datasets/flips.py",
    "datasets/labels.py",
)


def export_remote_code(folder: str | Path) -> list[Path]:
    """
    Copies the code of model, processor and pipeline into a saved folder and names it in the configs, so that
    `AutoModel.from_pretrained(folder, trust_remote_code=True)` and, of task models, `pipeline("face-parsing", folder,
    trust_remote_code=True)` work where `farl_hf` is not installed.

    Args:
        folder: A folder written by `save_pretrained` or [`convert_checkpoint`].

    Returns:
        The files that were written or changed.

    Raises:
        FileNotFoundError: If the folder has no `config.json`.
        ValueError: If the config is not one of a FaRL model.
    """
    folder = Path(folder)
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise FileNotFoundError(f"{folder} has no config.json: save the model there first.")
    config = json.loads(config_path.read_text())
    architecture = (config.get("architectures") or ["FaRLModel"])[0]
    if config.get("model_type") != FaRLConfig.model_type or architecture not in AUTO_CLASSES:
        raise ValueError(f"{config_path} is not the config of a FaRL model (found {architecture}).")
    changed = []
    package = Path(__file__).parents[1]
    for source in sorted((package / "models").glob("*_farl.py")):
        changed.append(Path(shutil.copy(source, folder)))
    if architecture in PIPELINES:
        task, pipeline_class = PIPELINES[architecture]
        (auto_class,) = AUTO_CLASSES[architecture]
        config["custom_pipelines"] = {task: {"impl": f"pipelines.{pipeline_class}", "pt": [auto_class]}}
        for name in _PIPELINE_CODE:
            path = folder / Path(name).name
            path.write_text(_in_one_folder((package / name).read_text(encoding="utf-8")), encoding="utf-8")
            changed.append(path)
    auto_map = {name: f"modeling_farl.{model}" for name, model in AUTO_CLASSES[architecture].items()}
    config["auto_map"] = {"AutoConfig": "configuration_farl.FaRLConfig", **auto_map}
    changed.append(_write_json(config_path, config))
    for name in ("processor_config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            changed.append(_add_processor_code(folder / name))
    return changed


def _in_one_folder(code: str) -> str:
    """
    The code with relative imports that name files of its own folder. Imports for type checkers alone are left out:
    Transformers would ask for their packages.
    """
    code = re.sub(r"^if TYPE_CHECKING:\n(?:    .*\n)+", "", code, flags=re.MULTILINE)
    return re.sub(r"^(\s*)from \.[\w.]*?(\w+) import", r"\1from .\2 import", code, flags=re.MULTILINE)


def _add_processor_code(path: Path) -> Path:
    """Names the code of our own classes in a processor's JSON file."""
    content = json.loads(path.read_text())
    auto_map = {}
    if content.get("processor_class") == "FaRLProcessor":
        auto_map["AutoProcessor"] = "processing_farl.FaRLProcessor"
    elif content.get("image_processor_type") == "FaRLFaceImageProcessor":
        auto_map["AutoProcessor"] = "image_processing_farl.FaRLFaceImageProcessor"
    image_processor = content.get("image_processor", content)
    if str(image_processor.get("image_processor_type", "")).startswith("FaRL"):
        auto_map["AutoImageProcessor"] = f"image_processing_farl.{image_processor['image_processor_type']}"
    if auto_map:
        content["auto_map"] = auto_map
        if image_processor is not content and "AutoImageProcessor" in auto_map:
            image_processor["auto_map"] = {"AutoImageProcessor": auto_map["AutoImageProcessor"]}
    return _write_json(path, content)


def _write_json(path: Path, content: dict) -> Path:
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path
