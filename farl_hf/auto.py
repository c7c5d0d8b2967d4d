"""Makes the FaRL classes known to Transformers' Auto classes."""

from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForKeypointDetection,
    AutoModelForPreTraining,
    AutoModelForSemanticSegmentation,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
    AutoTokenizer,
    CLIPTokenizer,
)

from .configuration_farl import FaRLConfig, FaRLTextConfig, FaRLVisionConfig
from .image_processing_farl import FaRLFaceImageProcessor, FaRLImageProcessor, FaRLImageProcessorPil
from .modeling_farl import (
    FaRLBackbone,
    FaRLForFaceAlignment,
    FaRLForFaceParsing,
    FaRLForImageClassification,
    FaRLForPreTraining,
    FaRLModel,
    FaRLTextModel,
    FaRLVisionModel,
)
from .processing_farl import FaRLProcessor


def register_auto_classes() -> None:
    """Registers configs, models and processors. Called when `farl_hf` is imported; repeating it is harmless."""
    for config in (FaRLConfig, FaRLTextConfig, FaRLVisionConfig):
        AutoConfig.register(config.model_type, config, exist_ok=True)
    for auto_class, config, model in (
        (AutoModel, FaRLConfig, FaRLModel),
        (AutoModel, FaRLTextConfig, FaRLTextModel),
        (AutoModel, FaRLVisionConfig, FaRLVisionModel),
        (AutoBackbone, FaRLVisionConfig, FaRLBackbone),
        (AutoModelForPreTraining, FaRLConfig, FaRLForPreTraining),
        (AutoModelForZeroShotImageClassification, FaRLConfig, FaRLModel),
        (AutoModelForSemanticSegmentation, FaRLConfig, FaRLForFaceParsing),
        (AutoModelForKeypointDetection, FaRLConfig, FaRLForFaceAlignment),
        (AutoModelForImageClassification, FaRLConfig, FaRLForImageClassification),
    ):
        auto_class.register(config, model, exist_ok=True)
    # A dual encoder's folder also opens as a backbone. `AutoBackbone.register` insists on the model's own config class.
    AutoBackbone._model_mapping.register(FaRLConfig, FaRLBackbone, exist_ok=True)
    image_processors = {"torchvision": FaRLImageProcessor, "pil": FaRLImageProcessorPil}
    AutoImageProcessor.register(FaRLConfig, image_processor_classes=image_processors, exist_ok=True)
    # Task folders name this class in their preprocessor_config.json; it needs no second backend.
    face_processors = {"torchvision": FaRLFaceImageProcessor, "pil": FaRLFaceImageProcessor}
    AutoImageProcessor.register(FaRLVisionConfig, image_processor_classes=face_processors, exist_ok=True)
    AutoProcessor.register(FaRLConfig, FaRLProcessor, exist_ok=True)
    AutoTokenizer.register(FaRLConfig, tokenizer_class=CLIPTokenizer, exist_ok=True)
