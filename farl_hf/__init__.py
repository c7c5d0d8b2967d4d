"""
FaRL, facial representation learning from images and text, in the Hugging Face ecosystem.

Importing this is cheap: public names, and the rooms below, are imported when they are first used. Transformers' Auto
classes know FaRL from then on.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import auto, moved
from .version import __version__

if TYPE_CHECKING:
    from .conversion.checkpoints import convert_checkpoint
    from .hub.remote_code import export_remote_code
    from .inference.analysis import analyze
    from .inference.optimization import optimize_for_inference, quantize_for_inference
    from .inference.results import Faces
    from .models.configuration_farl import FaRLConfig, FaRLTextConfig, FaRLVisionConfig
    from .models.image_processing_farl import FaRLFaceImageProcessor, FaRLImageProcessor, FaRLImageProcessorPil
    from .models.modeling_farl import (
        FaRLBackbone,
        FaRLForFaceAlignment,
        FaRLForFaceParsing,
        FaRLForImageClassification,
        FaRLForPreTraining,
        FaRLModel,
        FaRLPreTrainedModel,
        FaRLTextModel,
        FaRLVisionModel,
    )
    from .models.processing_farl import FaRLProcessor
    from .weights import pretrained

# Module of this package -> the public names it holds.
_PUBLIC: dict[str, tuple[str, ...]] = {
    "conversion.checkpoints": ("convert_checkpoint",),
    "hub.remote_code": ("export_remote_code",),
    "inference.analysis": ("analyze",),
    "inference.optimization": ("optimize_for_inference", "quantize_for_inference"),
    "inference.results": ("Faces",),
    "models.configuration_farl": ("FaRLConfig", "FaRLTextConfig", "FaRLVisionConfig"),
    "models.image_processing_farl": ("FaRLFaceImageProcessor", "FaRLImageProcessor", "FaRLImageProcessorPil"),
    "models.modeling_farl": (
        "FaRLBackbone",
        "FaRLForFaceAlignment",
        "FaRLForFaceParsing",
        "FaRLForImageClassification",
        "FaRLForPreTraining",
        "FaRLModel",
        "FaRLPreTrainedModel",
        "FaRLTextModel",
        "FaRLVisionModel",
    ),
    "models.processing_farl": ("FaRLProcessor",),
    "weights": ("pretrained",),
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names}
_ROOMS = (
    "commands",
    "conversion",
    "datasets",
    "finetuning",
    "hub",
    "inference",
    "metrics",
    "models",
    "pretraining",
    "synthetic",
    "weights",
)

__all__ = ["__version__", *sorted(_MODULE_OF)]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        value = getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
    elif name in _ROOMS or name in moved.MODULES:
        value = import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})


moved.install()
auto.install()
