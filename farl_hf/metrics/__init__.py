"""
The metrics of the paper, as accumulators whose memory does not grow with the data, and as modules of the `evaluate`
library: `evaluate.load(farl_hf.metrics.module_path("face_parsing_f1"))`.

May import `datasets` (label names) and `models` only.
"""

from pathlib import Path

from .attributes import AttributeAccuracy
from .landmarks import LandmarkNME, auc_and_failure_rate, nme_normaliser, normalised_mean_error
from .parsing import FaceParsingF1

__all__ = [
    "AttributeAccuracy",
    "FaceParsingF1",
    "LandmarkNME",
    "auc_and_failure_rate",
    "module_path",
    "nme_normaliser",
    "normalised_mean_error",
]


def module_path(name: str) -> str:
    """Path of an `evaluate` module of this package: `face_parsing_f1`, `landmark_nme` or `attribute_accuracy`."""
    return str(Path(__file__).parent / name)
