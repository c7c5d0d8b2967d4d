"""FaRL, facial representation learning from images and text, in the Hugging Face ecosystem."""

from .auto import register_auto_classes
from .checkpoints import convert_checkpoint
from .configuration_farl import FaRLConfig, FaRLTextConfig, FaRLVisionConfig
from .hub import export_remote_code
from .image_processing_farl import FaRLFaceImageProcessor, FaRLImageProcessor, FaRLImageProcessorPil
from .modeling_farl import (
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
from .optimization import optimize_for_inference, quantize_for_inference
from .processing_farl import FaRLProcessor
from .version import __version__

register_auto_classes()

__all__ = [
    "FaRLBackbone",
    "FaRLConfig",
    "FaRLFaceImageProcessor",
    "FaRLForFaceAlignment",
    "FaRLForFaceParsing",
    "FaRLForImageClassification",
    "FaRLForPreTraining",
    "FaRLImageProcessor",
    "FaRLImageProcessorPil",
    "FaRLModel",
    "FaRLPreTrainedModel",
    "FaRLProcessor",
    "FaRLTextConfig",
    "FaRLTextModel",
    "FaRLVisionConfig",
    "FaRLVisionModel",
    "__version__",
    "convert_checkpoint",
    "export_remote_code",
    "optimize_for_inference",
    "quantize_for_inference",
]
