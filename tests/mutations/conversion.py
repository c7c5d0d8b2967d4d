"""Mistakes in reading official files and in writing folders."""

from . import Mutation

FILES = "farl_hf/conversion/checkpoint_files.py"
CHECKPOINTS = "farl_hf/conversion/checkpoints.py"
LABELS = "farl_hf/datasets/labels.py"


def files(old: str, new: str, test: str) -> Mutation:
    return Mutation(FILES, old, new, (f"tests/conversion/test_checkpoint_files.py::{test}",))


def checkpoints(old: str, new: str, test: str) -> Mutation:
    return Mutation(CHECKPOINTS, old, new, (f"tests/conversion/test_checkpoints.py::{test}",))


MUTATIONS = [
    files(
        ".set_(data, offset, tuple(size)",
        ".set_(data, 0, tuple(size)",
        "test_torchscript_tensors_stay_in_their_storage",
    ),
    files("or math.prod(size) > most", "", "test_torchscript_tensors_stay_in_their_storage"),
    files(
        'module == "torch._utils" and name == "_rebuild_parameter"',
        'module == "builtins"',
        "test_torchscript_that_is_wrong_inside",
    ),
    checkpoints(
        "            os.replace(folder, output)",
        "            shutil.rmtree(output)",
        "test_folder_that_appears_at_the_last_moment",
    ),
    checkpoints(
        "        _check_output(output, overwrite)\n        if overwrite",
        "        if overwrite",
        "test_folder_that_appears_meanwhile",
    ),
    checkpoints('path.chmod((folder / "config.json").stat().st_mode)', "pass", "test_existing_output"),
    checkpoints(
        "if _is_transposed(ours[0]):\n            tensor",
        "if False:\n            tensor",
        "test_numbers_of_an_independent_forward",
    ),
    Mutation(
        LABELS,
        '("right eyebrow", "lb", "rb")',
        '("left eyebrow", "lb", "rb")',
        ("tests/models/test_dense_models.py::test_names_of_facer",),
    ),
    Mutation(
        LABELS,
        '("lower lip", "ll", "llip")',
        '("upper lip", "ll", "llip")',
        ("tests/models/test_dense_models.py::test_names_of_facer",),
    ),
]
