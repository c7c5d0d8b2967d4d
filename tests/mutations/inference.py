"""Mistakes in the answer object, its drawing, and the detector."""

from . import Mutation

RESULTS = "farl_hf/inference/results.py"
DRAWING = "farl_hf/inference/drawing.py"
DETECTION = "farl_hf/inference/detection.py"

FACES = ("tests/inference/test_results.py",)
PICTURES = ("tests/inference/test_drawing.py",)
DETECTOR = ("tests/inference/test_detection.py",)

MUTATIONS = [
    Mutation(RESULTS, "in reversed(list(zip(self.label_maps", "in (list(zip(self.label_maps", FACES),
    Mutation(RESULTS, "np.copyto(part, labels, where=labels > 0)", "np.copyto(part, labels)", FACES),
    Mutation(RESULTS, "angle = np.arctan2(-down[0], down[1])", "angle = np.arctan2(down[0], down[1])", FACES),
    Mutation(RESULTS, "if np.isfinite(value) else None", "if True else None", FACES),
    Mutation(RESULTS, "if index.dtype != bool:", "if True:", FACES),
    Mutation(DRAWING, '"nose": (220, 255, 65)', '"nose": (230, 250, 230)', PICTURES),
    Mutation(DRAWING, "range(27, 31),\n        range(31, 36),", "range(27, 32),\n        range(31, 36),", PICTURES),
    Mutation(DRAWING, "min(size) / 300", "max(size) / 300", PICTURES),
    Mutation(DETECTION, "best = max(turned, key", "best = min(turned, key", DETECTOR),
    Mutation(DETECTION, "_SAME_FACE = 0.6", "_SAME_FACE = 1.1", DETECTOR),
    Mutation(DETECTION, "image = ImageOps.exif_transpose(image)", "pass", DETECTOR),
    Mutation(DETECTION, "!= YUNET_WHEEL_SHA256", "== ''", DETECTOR),
]
