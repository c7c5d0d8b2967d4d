"""LoRA adapters of the vision tower, beside a fully trained neck and head."""

import json
import logging
import re
from pathlib import Path

from huggingface_hub import snapshot_download
from peft import LoraConfig, PeftModel, get_peft_model

from ..models.configuration_farl import FaRLConfig
from ..models.modeling_farl import (
    FaRLForFaceAlignment,
    FaRLForFaceParsing,
    FaRLForImageClassification,
    FaRLPreTrainedModel,
)
from ..weights import model_folder

logger = logging.getLogger(__name__)

# Query, key, value and output of every vision layer; the text tower has projections of the same names.
TARGET_MODULES = r"vision_model\.encoder\.layers\.\d+\.self_attn\.(q|k|v|out)_proj"

# In an adapter's folder, for the model's config: the base model's has another image size and other classes. It cannot
# lie beside the adapter, where Transformers would take it for that of a whole model.
TASK_CONFIG_FOLDER = "task_config"

_TASK_MODELS = {
    model.__name__: model for model in (FaRLForFaceAlignment, FaRLForFaceParsing, FaRLForImageClassification)
}


def add_adapter(
    model: FaRLPreTrainedModel, head_modules: tuple[str, ...], rank: int = 8, base_name: str | None = None
) -> PeftModel:
    """
    The model with trainable low-rank adapters in its frozen vision tower. Neck and head train in full and are saved
    beside the adapters, with their running statistics; setting `requires_grad` by hand would not save them.

    Args:
        model: A task model that was loaded from a folder or the Hub, which the adapter will refer to.
        head_modules: Names of the parts that train in full.
        rank: Of the adapters.
        base_name: What the adapter calls its base model, such as its name on the Hub; by default what the model was
            loaded from. A folder of this machine is a name that nobody else has.

    Raises:
        ValueError: If the model has no name to refer to.
    """
    if not model.name_or_path:
        raise ValueError("An adapter needs a saved base model: give a folder or a Hub name, not a preset.")
    # The config lies beside the adapter; the loaded one still names the architecture of the base folder.
    model.config.architectures = [type(model).__name__]
    lora = LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGET_MODULES, modules_to_save=list(head_modules))
    adapted = get_peft_model(model, lora)
    name = base_name or _public_name(model.name_or_path)
    adapted.peft_config["default"].base_model_name_or_path = name
    if Path(name).is_dir():
        logger.warning(
            "The adapter calls its base model %s, a folder of this machine. Before you share it, give the base a name "
            "that others can open (base_name, --base_name).",
            name,
        )
    return adapted


def _public_name(name: str) -> str:
    """The name of the package's own weights in the place of the folder where they were put together."""
    folder = Path(name)
    own = model_folder(folder.name)
    return folder.name if folder.is_dir() and Path(own).is_dir() and Path(own).samefile(folder) else name


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder holds an adapter, not a whole model."""
    return (Path(folder) / "adapter_config.json").is_file()


def _fetched(name: str) -> Path:
    """A folder as it is; else the files of the model of this name on the Hub."""
    if Path(name).is_dir() or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return Path(name)
    try:
        return Path(snapshot_download(name))
    except OSError as error:
        raise FileNotFoundError(
            f"{name} is neither a folder here nor a model on the Hub that can be reached: {error}"
        ) from error


def load_task_model(
    folder: str | Path, trainable: bool = False, base: str | Path | None = None
) -> FaRLPreTrainedModel | PeftModel:
    """
    Opens what [`finetune`] saved: a task model, or an adapter on its base model.

    Args:
        folder: Of the model or the adapter, its name on the Hub, or that of one of the package's own models.
        trainable: Whether an adapter is to be trained further.
        base: Where an adapter's base model is, in the place of the name that the adapter gives.

    Raises:
        FileNotFoundError: If there is no `config.json`, or no model under the name or the adapter's base's.
        ValueError: If the folder is not one of a task model.
    """
    folder = _fetched(model_folder(folder))
    config_folder = folder / TASK_CONFIG_FOLDER if is_adapter(folder) else folder
    if not (config_folder / "config.json").is_file():
        raise FileNotFoundError(f"{config_folder} has no config.json: {folder} is no folder of a fine-tuned model.")
    config = FaRLConfig.from_pretrained(config_folder)
    architecture = (config.architectures or [""])[0]
    if architecture not in _TASK_MODELS:
        raise ValueError(f"{folder} holds a {architecture or 'model without architecture'}, not a task model.")
    model_class = _TASK_MODELS[architecture]
    if not is_adapter(folder):
        return model_class.from_pretrained(folder)
    base = base or json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    base = model_folder(base)
    try:
        model = model_class.from_pretrained(base, config=config)
    except OSError as error:
        raise FileNotFoundError(
            f"{folder} adapts {base}, which is neither a folder here nor a model on the Hub that can be reached: say "
            "where it is (base=... of load_task_model)."
        ) from error
    # Its own folder, for those who read it from the adapted model; `config` names another.
    model.name_or_path = str(base)
    return PeftModel.from_pretrained(model, folder, is_trainable=trainable)
