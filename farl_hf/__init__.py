"""FaRL, facial representation learning from images and text, in the Hugging Face ecosystem."""

from .configuration_farl import FaRLConfig, FaRLTextConfig, FaRLVisionConfig
from .modeling_farl import (
    FaRLBackbone,
    FaRLForPreTraining,
    FaRLModel,
    FaRLPreTrainedModel,
    FaRLTextModel,
    FaRLVisionModel,
)
from .version import __version__

__all__ = [
    "FaRLBackbone",
    "FaRLConfig",
    "FaRLForPreTraining",
    "FaRLModel",
    "FaRLPreTrainedModel",
    "FaRLTextConfig",
    "FaRLTextModel",
    "FaRLVisionConfig",
    "FaRLVisionModel",
    "__version__",
]
