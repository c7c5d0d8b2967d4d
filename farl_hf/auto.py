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
from typing import Any


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


def _register_cards() -> None:
    """`model.push_to_hub` with this package's card. Models import no other room: this reaches into theirs."""
    from .models.modeling_farl import FaRLPreTrainedModel

    def push_to_hub(self: FaRLPreTrainedModel, repo_id: str, **options: Any) -> str:
        from .hub.publishing import push_model

        return push_model(self, repo_id, **options)

    push_to_hub.__doc__ = FaRLPreTrainedModel.push_to_hub.__doc__
    FaRLPreTrainedModel.push_to_hub = push_to_hub


def _register_pipelines() -> None:
    from transformers.pipelines import PIPELINE_REGISTRY

    from .inference import pipelines
    from .inference.default_models import DefaultModel

    for pipeline in (
        pipelines.FaceParsingPipeline,
        pipelines.FaceAlignmentPipeline,
        pipelines.FaceAttributesPipeline,
        pipelines.FaceAnalysisPipeline,
    ):
        # Repeated registrations are warned of.
        PIPELINE_REGISTRY.supported_tasks.pop(pipeline.task_name, None)
        PIPELINE_REGISTRY.register_pipeline(
            pipeline.task_name,
            pipeline_class=pipeline,
            pt_model=pipeline.auto_class,
            default=DefaultModel(pipeline.task_name),
            type="image",
        )


_CONFIGS = f"{__package__}.models.configuration_farl"
_MODELS = f"{__package__}.models.modeling_farl"
_IMAGE_PROCESSORS = f"{__package__}.models.image_processing_farl"
_PROCESSORS = f"{__package__}.models.processing_farl"
_PIPELINES = f"{__package__}.inference.pipelines"
# Module that makes a table -> our modules with the classes, and what adds them to it.
_REGISTRATIONS: dict[str, tuple[tuple[str, ...], Callable[[], None]]] = {
    "transformers.models.auto.configuration_auto": ((_CONFIGS,), _register_configs),
    "transformers.models.auto.modeling_auto": ((_CONFIGS, _MODELS), _register_models),
    "transformers.models.auto.image_processing_auto": ((_CONFIGS, _IMAGE_PROCESSORS), _register_image_processors),
    "transformers.models.auto.processing_auto": ((_CONFIGS, _IMAGE_PROCESSORS, _PROCESSORS), _register_processors),
    _MODELS: ((_MODELS,), _register_cards),
    "transformers.pipelines": ((_IMAGE_PROCESSORS, _PIPELINES), _register_pipelines),
}
# Transformers' modules that load its tables while they are being loaded, and that ours need whole.
_BASES = (
    "transformers.backbone_utils",
    "transformers.modeling_layers",
    "transformers.models.clip.image_processing_clip",
    "transformers.models.clip.image_processing_pil_clip",
)
_WATCHED = {*_REGISTRATIONS, *_BASES, _CONFIGS, _MODELS, _IMAGE_PROCESSORS, _PROCESSORS, _PIPELINES}


class _RegisterOnImport(MetaPathFinder):
    """
    Finds the watched modules as ever, and registers what can be registered when one of them has run. Ours are watched
    too, because importing them may be what loads a table: then they are not complete yet when the table is.
    """

    def __init__(self) -> None:
        self._searching = False
        self.loading: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _WATCHED or self._searching:
            return None
        self._searching = True
        try:
            spec = find_spec(fullname)
        finally:
            self._searching = False
        if spec is not None and spec.loader is not None:
            spec.loader = _LoaderThatRegisters(spec.loader, self)
        return spec

    def register(self, changed: str | None = None) -> None:
        """Fills the tables that are loaded; of those, only the ones that `changed` is needed for."""
        for table, (modules, register) in _REGISTRATIONS.items():
            if changed is not None and changed not in (table, *modules, *_BASES):
                continue
            if table in sys.modules and not self.loading & {table, *modules, *_BASES}:
                register()


class _LoaderThatRegisters(Loader):
    def __init__(self, loader: Loader, finder: _RegisterOnImport):
        self._loader, self._finder = loader, finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader
        self._finder.loading.add(module.__name__)
        try:
            self._loader.exec_module(module)
        finally:
            self._finder.loading.discard(module.__name__)
        self._finder.register(module.__name__)


def install() -> None:
    """Registers FaRL in the tables that are loaded, and in the others when they are. Repeating it is harmless."""
    if any(isinstance(finder, _RegisterOnImport) for finder in sys.meta_path):
        return
    finder = _RegisterOnImport()
    sys.meta_path.insert(0, finder)
    finder.register()
