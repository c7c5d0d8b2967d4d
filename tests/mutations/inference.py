"""Mistakes in the answer object, its drawing, and the detector."""

from . import Mutation

RESULTS = "farl_hf/inference/results.py"
DRAWING = "farl_hf/inference/drawing.py"
DETECTION = "farl_hf/inference/detection.py"
TRACKING = "farl_hf/inference/tracking.py"
FILMS = "farl_hf/inference/films.py"
SEARCH = "farl_hf/inference/search.py"

FACES = ("tests/inference/test_results.py",)
PICTURES = ("tests/inference/test_drawing.py",)
DETECTOR = ("tests/inference/test_detection.py",)
TRACKS = ("tests/inference/test_tracking.py",)
FILM = ("tests/inference/test_film_files.py",)
INDEX = ("tests/commands/test_search.py",)

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
    Mutation(TRACKING, "_overlap(self.box + np.tile(shift, 2), box)", "_overlap(self.box, box)", TRACKS),
    Mutation(TRACKING, "to_first = torch.linalg.inv(to_frame)", "to_first = to_frame", TRACKS),
    Mutation(TRACKING, "apart.clamp(min=share)", "torch.full_like(apart, share)", TRACKS),
    Mutation(TRACKING, "/ unit", "/ 1.0", TRACKS),
    Mutation(FILMS, "image.rotate(frame.rotation,", "image.rotate(-frame.rotation,", FILM),
    Mutation(FILMS, "frame.pts = max(self._last + 1, round(time * _TICKS))", "frame.pts = self._last + 1", FILM),
    Mutation(SEARCH, "if faces[row][0] not in best:", "if True:", INDEX),
    Mutation(SEARCH, "if faces[a][0] != faces[b][0]:", "if a != b:", INDEX),
]
