"""Miniature benchmarks of generated faces in their official layouts, and small models, for the fine-tuning tests."""

from pathlib import Path

import torch

from farl_hf import FaRLConfig, FaRLForPreTraining
from farl_hf.synthetic import SyntheticFaceConfig, writers

DATASETS = ("lapa", "celebamask_hq", "ibug300w", "wflw", "aflw19", "celeba")
IMAGE_SIZE = 32
# Two layers, of which the dense heads take each tap twice.
TINY = {
    "image_size": IMAGE_SIZE,
    "head_channels": 16,
    "heatmap_size": 32,
    "out_indices": [1, 1, 2, 2],
    "vision_config": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": IMAGE_SIZE,
        "patch_size": 8,
    },
}


def make_miniature(
    name: str, folder: Path, train: int = 8, test: int = 4, config: SyntheticFaceConfig | None = None
) -> Path:
    """Writes the benchmark `name`; returns its `data_dir`."""
    config = config or SyntheticFaceConfig(image_size=64)
    if name == "aflw19":
        writers.write_aflw19(folder, train, test, config)
    else:
        counts = {
            "ibug300w": {"train": train, "valid_common": test - 1, "valid_challenge": 1},
            "wflw": {"train": train, "test": test, "test_blur": 2},
        }.get(name, {"train": train, "val": 3, "test": test})
        getattr(writers, f"write_{name}")(folder, counts, config)
        if name == "wflw":
            # Subsets list faces of the test set again.
            lines = (folder / "WFLW/face_landmarks_wflw_test.csv").read_text().splitlines()
            (folder / "WFLW/face_landmarks_wflw_test_blur.csv").write_text("\n".join(lines[:3]) + "\n")
    return folder


def make_base_model(folder: Path) -> Path:
    """A dual encoder of random weights."""
    torch.manual_seed(0)
    vision_config = TINY["vision_config"]
    text_config = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    FaRLForPreTraining(
        FaRLConfig(vision_config=vision_config, text_config=text_config, projection_dim=16, mim_vocab_size=16)
    ).save_pretrained(folder)
    return folder
