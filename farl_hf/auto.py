"""
Makes the FaRL classes known to Transformers' Auto classes, without importing Transformers before somebody else does:
each of its tables is added to at the moment it is loaded.
"""

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType


def _register_configs() -> None:
    from transformers import AutoConfig

    from .models.configuration_farl import FaRLConfig, FaRLTextConfig, FaRLVisionConfig

    for config in (FaRLConfig, FaRLTextConfig, FaRLVisionConfig):
        AutoConfig.register(config.model_type, config, exist_ok=True)


def _register_models() -> None:
    from transformers.models.auto import modeling_auto

    from .models import modeling_farl
    from .models.configuration_farl import FaRLConfig, FaRLTextConfig, FaRLVisionConfig

    for auto_class, config, model in (
        ("AutoModel", FaRLConfig, "FaRLModel"),
        ("AutoModel", FaRLTextConfig, "FaRLTextModel"),
        ("AutoModel", FaRLVisionConfig, "FaRLVisionModel"),
        ("AutoBackbone", FaRLVisionConfig, "FaRLBackbone"),
        ("AutoModelForPreTraining", FaRLConfig, "FaRLForPreTraining"),
        ("AutoModelForZeroShotImageClassification", FaRLConfig, "FaRLModel"),
        ("AutoModelForSemanticSegmentation", FaRLConfig, "FaRLForFaceParsing"),
        ("AutoModelForKeypointDetection", FaRLConfig, "FaRLForFaceAlignment"),
        ("AutoModelForImageClassification", FaRLConfig, "FaRLForImageClassification"),
    ):
        getattr(modeling_auto, auto_class).register(config, getattr(modeling_farl, model), exist_ok=True)
    # A dual encoder's folder also opens as a backbone. `AutoBackbone.register` insists on the model's own config class.
    modeling_auto.AutoBackbone._model_mapping.register(FaRLConfig, modeling_farl.FaRLBackbone, exist_ok=True)


def _register_image_processors() -> None:
    from transformers import AutoImageProcessor

    from .models.configuration_farl import FaRLConfig, FaRLVisionConfig
    from .models.image_processing_farl import FaRLFaceImageProcessor, FaRLImageProcessor, FaRLImageProcessorPil

    image_processors = {"torchvision": FaRLImageProcessor, "pil": FaRLImageProcessorPil}
    AutoImageProcessor.register(FaRLConfig, image_processor_classes=image_processors, exist_ok=True)
    # Task folders name this class in their preprocessor_config.json; it needs no second backend.
    face_processors = {"torchvision": FaRLFaceImageProcessor, "pil": FaRLFaceImageProcessor}
    AutoImageProcessor.register(FaRLVisionConfig, image_processor_classes=face_processors, exist_ok=True)


def _register_processors() -> None:
    from transformers import AutoProcessor

    from .models.configuration_farl import FaRLConfig
    from .models.processing_farl import FaRLProcessor

    AutoProcessor.register(FaRLConfig, FaRLProcessor, exist_ok=True)


def _register_tokenizers() -> None:
    from transformers import AutoTokenizer, CLIPTokenizer

    from .models.configuration_farl import FaRLConfig

    AutoTokenizer.register(FaRLConfig, tokenizer_class=CLIPTokenizer, exist_ok=True)


# Transformers' module that makes a table -> what adds FaRL to it.
_REGISTRATIONS: dict[str, Callable[[], None]] = {
    "transformers.models.auto.configuration_auto": _register_configs,
    "transformers.models.auto.modeling_auto": _register_models,
    "transformers.models.auto.image_processing_auto": _register_image_processors,
    "transformers.models.auto.processing_auto": _register_processors,
    "transformers.models.auto.tokenization_auto": _register_tokenizers,
}


class _RegisterOnImport(MetaPathFinder):
    """Finds Transformers' Auto modules as ever, and registers FaRL once they have run."""

    def __init__(self) -> None:
        self._searching = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _REGISTRATIONS or self._searching:
            return None
        self._searching = True
        try:
            spec = find_spec(fullname)
        finally:
            self._searching = False
        if spec is not None and spec.loader is not None:
            spec.loader = _LoaderThatRegisters(spec.loader, _REGISTRATIONS[fullname])
        return spec


class _LoaderThatRegisters(Loader):
    def __init__(self, loader: Loader, register: Callable[[], None]):
        self._loader, self._register = loader, register

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._register()


def install() -> None:
    """Registers FaRL in the tables that are loaded, and in the others when they are. Repeating it is harmless."""
    if not any(isinstance(finder, _RegisterOnImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _RegisterOnImport())
    for module, register in _REGISTRATIONS.items():
        if module in sys.modules:
            register()
