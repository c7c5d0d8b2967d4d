"""Modules under the names they had up to version 0.1, when the package had no rooms."""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MODULES: dict[str, str] = {
    "checkpoint_files": "conversion.checkpoint_files",
    "checkpoints": "conversion.checkpoints",
    "cli": "commands.main",
    "configuration_farl": "models.configuration_farl",
    "dense_head_farl": "models.dense_head_farl",
    "detection": "inference.detection",
    "downloads": "conversion.downloads",
    "export": "inference.export",
    "flips": "datasets.flips",
    "geometry_farl": "models.geometry_farl",
    "image_processing_farl": "models.image_processing_farl",
    "labels": "datasets.labels",
    "modeling_farl": "models.modeling_farl",
    "optimization": "inference.optimization",
    "processing_farl": "models.processing_farl",
    "tokenization": "models.tokenization",
}
_PACKAGE = __name__.rpartition(".")[0]


class _MovedModules(MetaPathFinder, Loader):
    """Finds an old name and gives the module of the new one: one module, two names."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.rpartition(".")
        return ModuleSpec(fullname, self) if package == _PACKAGE and name in MODULES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(f"{_PACKAGE}.{MODULES[spec.name.rpartition('.')[2]]}")
        # Importing writes the old name's spec into the module; `exec_module` puts its own back.
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


def install() -> None:
    """Makes the old names importable. Repeating it is harmless."""
    if not any(isinstance(finder, _MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(_MovedModules())
