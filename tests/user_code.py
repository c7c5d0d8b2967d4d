"""Uses the public names as a user's program would. Checked by the type checker, never run."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

import farl_hf


def describe(photo: Path) -> list[str]:
    processor = farl_hf.FaRLFaceImageProcessor.from_pretrained("farl-lapa")
    model = farl_hf.FaRLForFaceParsing.from_pretrained("farl-lapa")
    inputs = processor(Image.open(photo), face_points=[np.zeros((5, 2))], return_tensors="pt")
    with torch.no_grad():
        outputs = model(inputs["pixel_values"])
    maps = processor.post_process_semantic_segmentation(outputs, inputs["face_transforms"])
    return [str(labels.shape) for labels in maps]


def convert(source: str, output: Path) -> str:
    result = farl_hf.convert_checkpoint(source, output, dtype=torch.float16)
    farl_hf.export_remote_code(output)
    return f"{result.architecture} with {result.num_tensors} tensors"


def small_model() -> farl_hf.FaRLForFaceAlignment:
    config = farl_hf.FaRLConfig.from_preset("tiny", num_landmarks=68)
    side: int = config.vision_config.image_size
    assert side > 0
    return farl_hf.optimize_for_inference(farl_hf.FaRLForFaceAlignment(config).eval())


def lines() -> list[str]:
    return [farl_hf.__version__, farl_hf.metrics.module_path("landmark_nme")]
