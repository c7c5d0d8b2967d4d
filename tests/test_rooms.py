"""The rooms of the package: which imports which, what a wheel holds, and that importing the package is cheap."""

import ast
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "farl_hf"
# A room may import the rooms before it, and no others.
ORDER = (
    "models",
    "datasets",
    "metrics",
    "synthetic",
    "weights",
    "inference",
    "hub",
    "conversion",
    "finetuning",
    "pretraining",
    "commands",
)
FORBIDDEN = {("pretraining", "finetuning")}
# Modules of the package's root that import no room when they are imported.
ROOT_MODULES = {"__init__", "__main__", "allocation", "auto", "moved", "version"}


def imported_modules(path: Path, package: Path) -> Iterator[str]:
    """Dotted names that a file of `package` imports, anywhere in it, relative ones resolved."""
    folder = [package.name, *path.relative_to(package).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) - node.level + 1] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{start}.{alias.name}" for alias in node.names)


def wrong_arrows(package: Path) -> list[str]:
    """`room/file -> room` of every import that goes against the order."""
    wrong = []
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).parts
        if len(parts) == 1:
            continue
        for name in imported_modules(path, package):
            names = name.split(".")
            if names[0] != package.name or len(names) < 2 or names[1] not in ORDER or names[1] == parts[0]:
                continue
            if ORDER.index(names[1]) > ORDER.index(parts[0]) or (parts[0], names[1]) in FORBIDDEN:
                wrong.append(f"{'/'.join(parts)} -> {names[1]}")
    return wrong


def test_rooms_are_known():
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms <= set(ORDER)
    assert {path.stem for path in PACKAGE.glob("*.py")} == ROOT_MODULES
    for room in sorted(rooms):
        docstring = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text()))
        assert docstring and ("ay import" in docstring or "is imported here" in docstring), (
            f"{room}/__init__.py should say what it may import"
        )


def test_arrows_point_one_way():
    assert wrong_arrows(PACKAGE) == []


def test_a_wrong_arrow_is_seen(tmp_path):
    package = tmp_path / "farl_hf"
    for room in ("models", "pretraining"):
        (package / room).mkdir(parents=True)
    (package / "models/a.py").write_text("def f():\n    from ..datasets.labels import LAPA_LABELS\n")
    (package / "pretraining/b.py").write_text(
        "import farl_hf.finetuning.run\nfrom ..models import a\nfrom . import c\n"
    )
    assert wrong_arrows(package) == ["models/a.py -> datasets", "pretraining/b.py -> finetuning"]


def test_models_import_nothing_else_of_ours():
    allowed = {"torch", "torchvision", "transformers", "huggingface_hub", "numpy", "PIL", *sys.stdlib_module_names}
    for path in (PACKAGE / "models").glob("*_farl.py"):
        for name in imported_modules(path, PACKAGE):
            first = name.split(".")[0]
            assert first in allowed or name.startswith("farl_hf.models."), f"{path.name} imports {name}"


def _modules_after(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}; print(*sys.modules)"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("code", ["import farl_hf", "from farl_hf.commands.main import build_parser; build_parser()"])
def test_importing_is_cheap(code):
    heavy = {"torch", "transformers", "numpy", "PIL", "datasets", "evaluate", "peft", "cv2", "anny", "warp"}
    assert not heavy & _modules_after(code)


def test_command_answers_without_torch(tmp_path):
    for option in ("--help", "--version"):
        done = subprocess.run(
            [sys.executable, "-m", "farl_hf", option],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=_without_torch(tmp_path),
        )
        assert done.returncode == 0 and "farl" in done.stdout, done.stderr


def _without_torch(folder: Path) -> dict[str, str]:
    """An environment in which importing torch fails."""
    (folder / "torch.py").write_text("raise ImportError('torch was imported')\n")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


FIRST_IMPORTS = (
    "import farl_hf; import transformers",
    "import transformers, farl_hf",
    "from transformers import AutoModel; import farl_hf",
    "from transformers import pipeline; import farl_hf",
    "import farl_hf.models.modeling_farl",
    "import farl_hf.models.processing_farl",
    "import farl_hf.models.image_processing_farl",
    "import farl_hf.inference.pipelines",
    "import farl_hf, transformers.modeling_layers",
    "import farl_hf, transformers.backbone_utils",
    "import farl_hf, transformers.trainer",
    "import farl_hf; from transformers import CLIPImageProcessor",
    "import sys; sys.modules['torchvision'] = None; import farl_hf.conversion.checkpoints",
)


def test_auto_classes_know_farl_whatever_is_imported_first():
    """Each case in a fork of one process that has imported torch, and nothing of Transformers or ours."""
    code = (
        "from transformers import AutoConfig, AutoModelForKeypointDetection as A\n"
        "from transformers import AutoImageProcessor, AutoProcessor, AutoModel, AutoTokenizer\n"
        "from transformers.models.auto import image_processing_auto, processing_auto\n"
        "from transformers.pipelines import check_task\n"
        "config = farl_hf.FaRLConfig.from_preset('tiny')\n"
        "assert type(A.from_config(config)).__name__ == 'FaRLForFaceAlignment'\n"
        "assert type(AutoModel.from_config(config.vision_config)).__name__ == 'FaRLVisionModel'\n"
        "assert type(config) in processing_auto.PROCESSOR_MAPPING\n"
        "assert type(config) in image_processing_auto.IMAGE_PROCESSOR_MAPPING\n"
        "assert type(AutoConfig.for_model('farl')) is type(config)\n"
        "assert check_task('face-analysis')[0] == 'face-analysis'\n"
    )
    program = (
        "import os, sys, torch\n"
        "assert 'transformers' not in sys.modules\n"
        f"for first in {FIRST_IMPORTS!r}:\n"
        "    if child := os.fork():\n"
        "        assert os.waitpid(child, 0)[1] == 0, first\n"
        "    else:\n"
        f"        exec(first + '\\n' + {code!r})\n"
        "        os._exit(0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there():
    import farl_hf

    for name in farl_hf.__all__:
        assert getattr(farl_hf, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'FaRLForEverything'"):
        farl_hf.FaRLForEverything  # noqa: B018


def test_expressions_after_a_plain_import():
    code = (
        "import farl_hf; assert farl_hf.metrics.module_path('landmark_nme'); farl_hf.finetuning.open_evaluation; "
        "farl_hf.geometry_farl.warp_image; farl_hf.models.geometry_farl"
    )
    assert "farl_hf.finetuning" in _modules_after(code)


def test_modules_keep_their_former_names():
    from farl_hf import moved

    for old, new in moved.MODULES.items():
        code = f"import farl_hf.{old} as a, farl_hf.{new} as b; assert a is b and a.__spec__.name == 'farl_hf.{new}'"
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT) if old in ("geometry_farl", "cli") else None
        assert (PACKAGE / f"{new.replace('.', '/')}.py").is_file()


def test_wheel_holds_the_package_and_nothing_else(tmp_path):
    files = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT)
    if files.returncode:
        pytest.skip("not a checkout")
    source = tmp_path / "source"
    for name in files.stdout.split("\n"):
        needed = name.startswith("farl_hf/") or name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")
        if needed and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = [
        sys.executable,
        "-c",
        "from setuptools.build_meta import build_wheel; import sys; build_wheel(sys.argv[1])",
    ]
    done = subprocess.run([*build, str(tmp_path)], capture_output=True, text=True, cwd=source)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    tracked = {name for name in files.stdout.split("\n") if name.startswith("farl_hf/") and (ROOT / name).is_file()}
    assert inside == tracked
