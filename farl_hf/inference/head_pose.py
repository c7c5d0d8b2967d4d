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

# Millimetres (right of the image, down, away) of thirteen points of a face from the front: the eyes' corners from
# left to right, four down the nose's ridge, left, middle and right of its base, corners of the mouth. The mean over 400
# people of `synthetic.people.sample_person` (seeds 0 to 399), with their expressions.
_MEAN_FACE = np.array(
    [
        *((-43.5, 1.9, -5.3), (-19.2, 3.0, -11.3), (19.2, 3.0, -11.3), (43.5, 1.9, -5.3)),
        *((0.0, -1.2, -25.5), (0.0, 11.7, -29.6), (0.0, 25.0, -37.7), (0.0, 38.3, -46.6)),
        *((-16.4, 43.1, -27.4), (0.0, 46.8, -36.5), (16.4, 43.1, -27.4)),
        *((-27.0, 66.3, -20.8), (27.0, 66.3, -20.8)),
    ]
)
# Layout -> point of the mean face: landmark.
_ANCHORS: dict[int, dict[int, int]] = {
    68: dict(enumerate((36, 39, 42, 45, 27, 28, 29, 30, 31, 33, 35, 48, 54))),
    98: dict(enumerate((60, 64, 68, 72, 51, 52, 53, 54, 55, 57, 59, 76, 82))),
    106: dict(enumerate((66, 70, 75, 79, 51, 52, 53, 54, 58, 60, 62, 84, 90))),
    19: {0: 6, 1: 8, 2: 9, 3: 11, 7: 13, 11: 15, 12: 17},
}
_ROUNDS = 10


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
    """
    (faces, 3) float32 degrees of landmarks (faces, 68, 98, 106 or 19, 2): yaw (positive to the image's right), pitch
    (positive down), roll (positive clockwise as seen). The rotation under which a mean face, scaled and moved, meets
    the landmarks of eyes, nose and mouth corners best in the sense of least squares. Seen from near, perspective adds
    some degrees. `None` for other layouts; not a number where landmarks lie on one spot.
    """
    anchors = _ANCHORS.get(landmarks.shape[1])
    if anchors is None:
        return None
    shape = _MEAN_FACE[list(anchors)]
    points = landmarks[:, list(anchors.values())].astype(np.float64)
    return np.array([_fit(shape, face) for face in points], dtype=np.float32).reshape(-1, 3)


def _fit(shape: np.ndarray, points: np.ndarray) -> tuple[float, float, float]:
    """Yaw, pitch and roll of a shape (n, 3) seen at points (n, 2), by Gauss-Newton from the best affine map."""
    shape, points = shape - shape.mean(axis=0), points - points.mean(axis=0)
    size = np.sqrt(np.square(points).sum())
    if not np.isfinite(size) or size < 1e-6:
        return np.nan, np.nan, np.nan
    points = points / size
    affine = np.linalg.lstsq(shape, points, rcond=None)[0].T
    # The nearest rotation, up to scale, of which these are the first two rows.
    u, (largest, _), v = np.linalg.svd(affine, full_matrices=False)
    rows = u @ v
    rotation, scale = np.stack([*rows, np.cross(rows[0], rows[1])]), largest
    for _ in range(_ROUNDS):
        turned = shape @ rotation.T
        residual = (points - scale * turned[:, :2]).ravel()
        # How the points move when the head turns a little further around x, y and z, and grows.
        x, y, z = turned.T
        nil = np.zeros_like(x)
        columns = [np.stack(pair, axis=1).ravel() for pair in ((nil, -z), (z, nil), (-y, x))]
        jacobian = np.stack([scale * column for column in columns] + [turned[:, :2].ravel()], axis=1)
        step = np.linalg.lstsq(jacobian, residual, rcond=None)[0]
        rotation, scale = _small_rotation(step[:3]) @ rotation, scale + step[3]
    return _angles(rotation)


def _small_rotation(vector: np.ndarray) -> np.ndarray:
    """(3, 3) around an axis by the vector's length in radians, at most half a radian."""
    angle = float(np.linalg.norm(vector))
    if angle == 0:
        return np.eye(3)
    x, y, z = vector / angle
    angle = min(angle, 0.5)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def _angles(rotation: np.ndarray) -> tuple[float, float, float]:
    """Degrees of roll @ pitch @ yaw in camera space (x right, y down, z away), as the generator has it."""
    yaw = np.arctan2(rotation[2, 0], rotation[2, 2])
    pitch = np.arcsin(np.clip(rotation[2, 1], -1, 1))
    roll = np.arctan2(-rotation[0, 1], rotation[1, 1])
    yaw, pitch, roll = np.rad2deg([yaw, pitch, roll])
    return float(yaw), float(pitch), float(roll)


__all__ = ["eye_openness", "five_points", "head_pose", "mouth_openness"]
