"""
Geometry between photos, face crops and heat maps: matrices, the tanh warp, sampling, landmarks.

Points are (x, y) in pixels. Two conventions exist and are named after the code that uses them:

* `"farl"` (the FaRL repository): a point names pixel *indices*, the centre of the first pixel is (0, 0).
* `"facer"` (facer): a point names *continuous* coordinates, the centre of the first pixel is (0.5, 0.5).

A crop is described by a 3x3 matrix from the photo's coordinates to the crop's, in one of the conventions, followed by
the tanh warp with `warp_factor` (0: none). All functions are batched torch, differentiable, and work where their
arguments are.
"""

import math

import torch
from torch import nn

# Eyes, nose tip and mouth corners (left in the image first) on a 512 px canvas, `py-blueprint` ml/augmenters/face.py.
_FIVE_POINTS_512 = ((196.0, 226.0), (316.0, 226.0), (256.0, 286.0), (220.0, 360.4), (292.0, 360.4))
# facer's template for CelebA attributes on a 256 px canvas (`face_attribute/farl.py`).
_FIVE_POINTS_CELEBA = (
    (85.82991, 85.7792),
    (169.0532, 84.3381),
    (127.574, 137.0006),
    (90.6964, 174.7014),
    (167.3069, 173.3733),
)
# The inverse warp clamps here, in both code bases; arctanh(0.999) = 3.8002.
_ATANH_LIMIT = 0.999


def pixel_centre(convention: str) -> float:
    """Coordinate of the first pixel's centre: 0 for `"farl"`, 0.5 for `"facer"`."""
    if convention not in ("farl", "facer"):
        raise ValueError(f"Unknown coordinate convention {convention!r}: choose 'farl' or 'facer'.")
    return 0.0 if convention == "farl" else 0.5


# --------------------------------------------------------------------------------------------------- crop matrices


def similarity_from_points(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """
    The least-squares similarity (scale, rotation, translation, no reflection) that takes `source` to `target`.

    Args:
        source, target: (..., points, 2), at least two distinct source points.

    Returns:
        (..., 3, 3), in the dtype of `source`.

    Raises:
        ValueError: If a point is not finite, or all source points of a set are the same.
    """
    if not bool(source.isfinite().all()):
        raise ValueError("A face has points that are not finite (NaN or infinite).")
    target = target.to(source).expand(source.shape)
    source_mean, target_mean = source.mean(dim=-2), target.mean(dim=-2)
    f, t = source - source_mean[..., None, :], target - target_mean[..., None, :]
    spread = f.square().sum(dim=(-2, -1))
    # Relative to the coordinates' size, so that a face far from the origin is judged alike.
    if bool((spread <= 1e-10 * (1 + source.square().sum(dim=(-2, -1)))).any()):
        raise ValueError("A face has five points that all lie in one place: there is nothing to align.")
    a = (t * f).sum(dim=(-2, -1)) / spread
    b = (t[..., 0] * f[..., 1] - t[..., 1] * f[..., 0]).sum(dim=-1) / spread
    if bool((a.square() + b.square() <= 1e-20).any()):
        raise ValueError("A face's five points match the template in no orientation: are they in the documented order?")
    x = target_mean[..., 0] - a * source_mean[..., 0] - b * source_mean[..., 1]
    y = target_mean[..., 1] + b * source_mean[..., 0] - a * source_mean[..., 1]
    return _matrix(a, b, x, -b, a, y)


def _matrix(*rows: torch.Tensor) -> torch.Tensor:
    """(..., 3, 3) from the six numbers of an affine map."""
    zero, one = torch.zeros_like(rows[0]), torch.ones_like(rows[0])
    return torch.stack([*rows, zero, zero, one], dim=-1).unflatten(-1, (3, 3))


def standard_five_points(size: int, face_scale: float = 1.0) -> torch.Tensor:
    """
    Where the five points lie in an aligned crop (LaPa, and facer's parsing and alignment).

    Args:
        size: Side of the crop in pixels.
        face_scale: 1.0 for parsing, 0.8 for facer's alignment models.

    Returns:
        (5, 2) float64: eye, eye, nose tip, mouth corner, mouth corner; the image's left side first.
    """
    standard = torch.tensor(_FIVE_POINTS_512, dtype=torch.float64) / 256 - 1
    return (standard * face_scale + 1) * (size - 1) / 2


def celeba_five_points(size: int) -> torch.Tensor:
    """Where the five points lie in facer's 224 px crop for CelebA attributes, scaled to `size`. (5, 2) float64."""
    template = torch.tensor(_FIVE_POINTS_CELEBA, dtype=torch.float64)
    shift = torch.tensor((0.0, 30.0), dtype=torch.float64)
    return (template + shift - 128 + 250) * size / 500


def face_align_matrix(points: torch.Tensor, size: int, face_scale: float = 1.0) -> torch.Tensor:
    """Matrix (..., 3, 3) of the five-point crop (see [`standard_five_points`]) of `points` (..., 5, 2) in the photo."""
    return similarity_from_points(points, standard_five_points(size, face_scale))


def celeba_align_matrix(points: torch.Tensor, size: int) -> torch.Tensor:
    """Matrix (..., 3, 3) of the attribute crop (see [`celeba_five_points`]) of `points` (..., 5, 2) in the photo."""
    return similarity_from_points(points, celeba_five_points(size))


def celebamask_hq_matrix(points: torch.Tensor, size: int) -> torch.Tensor:
    """
    Matrix (..., 3, 3) of the CelebA-HQ crop, rebuilt from five points as facer does (`transform.py`, `get_quad`).

    Args:
        points: (..., 5, 2) eyes, nose tip, mouth corners, the image's left side first.
        size: Side of the crop in pixels.

    Raises:
        ValueError: If the points are not finite or do not span a face.
    """

    def rotate90(v: torch.Tensor) -> torch.Tensor:
        return torch.stack([-v[..., 1], v[..., 0]], dim=-1)

    left_eye, right_eye, _, left_mouth, right_mouth = points.unbind(dim=-2)
    eyes = (left_eye + right_eye) / 2 + 0.5
    mouth = (left_mouth + right_mouth) / 2 + 0.5
    eye_to_eye, eye_to_mouth = right_eye - left_eye, mouth - eyes
    x = eye_to_eye - rotate90(eye_to_mouth)
    x = x / x.norm(dim=-1, keepdim=True)
    side = torch.maximum(2.0 * eye_to_eye.norm(dim=-1, keepdim=True), 1.8 * eye_to_mouth.norm(dim=-1, keepdim=True))
    x = x * side
    y = rotate90(x)
    centre = eyes + 0.1 * eye_to_mouth
    quad = torch.stack([centre - x - y, centre + x - y, centre + x + y, centre - x + y], dim=-2)
    corners = torch.tensor([[0, 0], [size, 0], [size, size], [0, size]], dtype=points.dtype, device=points.device)
    return similarity_from_points(quad, corners)


def box_crop_matrix(boxes: torch.Tensor, size: int, scale: float = 1.0) -> torch.Tensor:
    """
    Matrix (..., 3, 3) that takes a box to the whole crop, the box's corners to the crop's outer edges, as pixel indices
    (`py-blueprint` and facer, `make_crop_and_resize_matrix`).

    Args:
        boxes: (..., 4) x1, y1, x2, y2.
        size: Side of the crop in pixels.
        scale: Size of the face in the crop: 0.8 shows 1 / 0.8 of the box. About the box's centre.

    Raises:
        ValueError: If a box is not finite or has no area.
    """
    if not bool(boxes.isfinite().all()):
        raise ValueError("A box is not finite (NaN or infinite).")
    x1, y1, x2, y2 = boxes.unbind(dim=-1)
    if bool(((x2 <= x1) | (y2 <= y1)).any()):
        raise ValueError("A box has no area: boxes are x1, y1, x2, y2 with x1 < x2 and y1 < y2.")
    centre_x, centre_y = (x1 + x2) / 2, (y1 + y2) / 2
    middle = (size - 1) / 2
    scale_x, scale_y = scale * size / (x2 - x1), scale * size / (y2 - y1)
    zero = torch.zeros_like(scale_x)
    return _matrix(scale_x, zero, middle - scale_x * centre_x, zero, scale_y, middle - scale_y * centre_y)


def random_similarity_matrix(angle: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, size: int) -> torch.Tensor:
    """
    Matrix (..., 3, 3) of the original's training jitter, to be multiplied to the left of a crop matrix: rotation and
    scale about the crop's middle `(size - 1) / 2`, then a shift (`[[s cos, -s sin, .], [s sin, s cos, .]]`).

    Args:
        angle: (...) radians.
        scale: (...) factors.
        shift: (..., 2) pixels, x and y.
        size: Side of the crop in pixels.
    """
    middle = (size - 1) / 2
    a, b = scale * angle.cos(), scale * angle.sin()
    x = middle + shift[..., 0] - (a - b) * middle
    y = middle + shift[..., 1] - (b + a) * middle
    return _matrix(a, -b, x, b, a, y)


# -------------------------------------------------------------------------------------------------------- tanh warp


def tanh_warp(normalised: torch.Tensor, warp_factor: float) -> torch.Tensor:
    """
    Squeezes the whole line into (-1, 1): the identity up to `1 - warp_factor` from the middle, a tanh beyond. Applied
    to x and y alike.

    Args:
        normalised: Crop coordinates scaled to [-1, 1], any shape.
        warp_factor: 0 is the identity everywhere, 1 a pure tanh; 0.8 for LaPa.
    """
    if warp_factor == 0:
        return normalised
    start = 1 - warp_factor
    beyond = (normalised.abs() - start).clamp(min=0)
    # Where nothing is beyond, the sum is the coordinate itself, to the last bit.
    inner = normalised.clamp(-start, start)
    return inner + normalised.sign() * warp_factor * torch.tanh(beyond / warp_factor)


def inverse_tanh_warp(warped: torch.Tensor, warp_factor: float) -> torch.Tensor:
    """Inverse of [`tanh_warp`]. The outermost thousandth of the squeezed range repeats its edge, as in the original."""
    if warp_factor == 0:
        return warped
    start = 1 - warp_factor
    beyond = (warped.abs() - start).clamp(min=0)
    inner = warped.clamp(-start, start)
    return inner + warped.sign() * warp_factor * torch.atanh((beyond / warp_factor).clamp(max=_ATANH_LIMIT))


def apply_matrix(matrix: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """`points` (..., n, 2) through `matrix` (..., 3, 3), with the perspective division."""
    mapped = points @ matrix[..., :2, :2].transpose(-1, -2) + matrix[..., None, :2, 2]
    divisor = points @ matrix[..., 2:, :2].transpose(-1, -2) + matrix[..., None, 2:, 2]
    return mapped / divisor


def photo_to_crop(points: torch.Tensor, matrix: torch.Tensor, size: int, warp_factor: float = 0.0) -> torch.Tensor:
    """
    Points of the photo in the crop, both in the convention of `matrix`.

    Args:
        points: (..., n, 2).
        matrix: (..., 3, 3) from the photo to the crop.
        size: Side of the crop in pixels.
        warp_factor: See [`tanh_warp`].
    """
    aligned = apply_matrix(matrix.to(points), points)
    if warp_factor == 0:
        return aligned
    # Normalised by the size, not by size - 1, in both conventions.
    return (tanh_warp(2 * aligned / size - 1, warp_factor) + 1) / 2 * size


def crop_to_photo(points: torch.Tensor, matrix: torch.Tensor, size: int, warp_factor: float = 0.0) -> torch.Tensor:
    """Inverse of [`photo_to_crop`]; with a warp, points further than its clamp come back at the clamp's edge."""
    if warp_factor != 0:
        points = (inverse_tanh_warp(2 * points / size - 1, warp_factor) + 1) / 2 * size
    # Inverted in float64: the matrix of a tiny or a huge face is badly scaled.
    return apply_matrix(torch.linalg.inv(matrix.double()).to(points), points)


# --------------------------------------------------------------------------------------------------------- sampling


def crop_sampling_map(matrix: torch.Tensor, size: int, warp_factor: float, convention: str) -> torch.Tensor:
    """
    For every pixel of the crop the photo coordinate that it shows.

    Args:
        matrix: (batch, 3, 3) from the photo to the crop.
        size: Side of the crop in pixels.
        warp_factor: See [`tanh_warp`].
        convention: Of the matrix and of the result.

    Returns:
        (batch, size, size, 2), x and y.
    """
    # The warp acts on x and y alike and apart, so one axis is enough; then rows and columns are added up.
    axis = torch.arange(size, dtype=matrix.dtype, device=matrix.device) + pixel_centre(convention)
    if warp_factor != 0:
        axis = (inverse_tanh_warp(2 * axis / size - 1, warp_factor) + 1) / 2 * size
    inverse = torch.linalg.inv(matrix.double()).to(matrix.dtype)[..., None, None]
    x, y, divisor = (inverse[:, i, 0] * axis + (inverse[:, i, 1] * axis[:, None] + inverse[:, i, 2]) for i in range(3))
    return torch.stack([x / divisor, y / divisor], dim=-1)


def crop_sampling_grid(
    matrix: torch.Tensor, size: int, warp_factor: float, convention: str, height: int, width: int
) -> torch.Tensor:
    """
    [`crop_sampling_map`] of one affine matrix, scaled for `grid_sample` with `align_corners=False`: for training, where
    it is made anew for every picture. All scales are put into the matrix, so that only one sum per axis is left.

    Args:
        matrix: (3, 3), affine, from the photo to the crop.
        size, warp_factor, convention: See [`crop_sampling_map`].
        height, width: Of the photo in pixels.

    Returns:
        (1, size, size, 2) float32.
    """
    centre = pixel_centre(convention)
    axis = torch.arange(size, dtype=torch.float64) + centre
    if warp_factor != 0:
        axis = (inverse_tanh_warp(2 * axis / size - 1, warp_factor) + 1) / 2 * size
    inverse = torch.linalg.inv(matrix.double())
    grid = torch.empty(1, size, size, 2)
    for i, extent in enumerate((width, height)):
        across = inverse[i, 0] * axis * (2 / extent)
        down = (inverse[i, 1] * axis + inverse[i, 2] + (0.5 - centre)) * (2 / extent) - 1
        torch.add(across.float(), down.float()[:, None], out=grid[0, :, :, i])
    return grid


def pixel_grid(height: int, width: int, convention: str, like: torch.Tensor) -> torch.Tensor:
    """Centres of all pixels, (1, height * width, 2), row by row, in the dtype and on the device of `like`."""
    first = pixel_centre(convention)
    y, x = torch.meshgrid(
        torch.arange(height, dtype=like.dtype, device=like.device) + first,
        torch.arange(width, dtype=like.dtype, device=like.device) + first,
        indexing="ij",
    )
    return torch.stack([x, y], dim=-1).reshape(1, -1, 2)


def photo_sampling_map(
    matrix: torch.Tensor, box: tuple[int, int, int, int], size: int, warp_factor: float, convention: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    For every pixel of a part of the photo the place in the crop that lies there: [`photo_to_crop`] of a whole grid.

    Args:
        matrix: (3, 3), affine, from the photo to the crop.
        box: (x1, y1, x2, y2) of the part in pixels, the far sides excluded.
        size: Side of the crop in pixels.
        warp_factor: See [`tanh_warp`].
        convention: Of the matrix.

    Returns:
        x and y, each (y2 - y1, x2 - x1) float32: 0 and 1 are the crop's outer edges.
    """
    x1, y1, x2, y2 = box
    first = pixel_centre(convention)
    rows = matrix.double()[:2] / size
    # Half a pixel from indices to edges, after the warp if there is one.
    shift = (0.5 - first) / size
    if warp_factor == 0:
        rows[:, 2] += shift
    across = torch.arange(x1, x2, dtype=torch.float64, device=matrix.device) + first
    down = torch.arange(y1, y2, dtype=torch.float64, device=matrix.device) + first
    # Rows and columns are added up, one sum a pixel.
    x, y = ((row[0] * across).float() + (row[1] * down + row[2]).float()[:, None] for row in rows)
    if warp_factor == 0:
        return x, y
    x, y = ((tanh_warp(2 * values - 1, warp_factor) + 1) / 2 + shift for values in (x, y))
    return x, y


def grid_for_sampling(coordinates: torch.Tensor, height: int, width: int, convention: str) -> torch.Tensor:
    """
    Coordinates (..., 2) of an image of `height` x `width` pixels as `grid_sample` with `align_corners=False` wants
    them: -1 and 1 at the image's outer edges.
    """
    extent = torch.tensor([width, height], dtype=coordinates.dtype, device=coordinates.device)
    # 2 * (coordinates + 0.5 - centre) / extent - 1, in one pass.
    return torch.addcmul((1 - 2 * pixel_centre(convention)) / extent - 1, coordinates, 2 / extent)


def sample(images: torch.Tensor, coordinates: torch.Tensor, convention: str, mode: str = "bilinear") -> torch.Tensor:
    """
    Reads `images` (batch, channels, height, width) at `coordinates` (batch, ..., 2), zero outside.

    Returns:
        (batch, channels, ...) of the coordinates' shape, bilinear or `mode="nearest"`.
    """
    grid = grid_for_sampling(coordinates, images.shape[-2], images.shape[-1], convention).to(images.dtype)
    return nn.functional.grid_sample(images, grid, mode=mode, padding_mode="zeros", align_corners=False)


def warp_image(
    images: torch.Tensor,
    matrix: torch.Tensor,
    size: int,
    warp_factor: float = 0.0,
    convention: str = "facer",
    mode: str = "bilinear",
) -> torch.Tensor:
    """
    Cuts one crop out of each image.

    Args:
        images: (batch, channels, height, width) float.
        matrix: (batch, 3, 3) from photo to crop coordinates.
        size: Side of the crop in pixels.
        warp_factor: See [`tanh_warp`].
        convention: Coordinate convention of the matrix.
        mode: `"bilinear"`, or `"nearest"` for labels.

    Returns:
        (batch, channels, size, size), zero outside of the image.
    """
    return sample(images, crop_sampling_map(matrix, size, warp_factor, convention), convention, mode)


def warp_image_smoothly(
    image: torch.Tensor, matrices: torch.Tensor, size: int, warp_factor: float = 0.0, convention: str = "facer"
) -> torch.Tensor:
    """
    As [`warp_image`] for the faces of one photo, with the mean over the photo's pixels where a crop's pixel covers
    several of them (outside of the tanh warp), up to 16 x 16.

    Args:
        image: (channels, height, width) float.
        matrices: (faces, 3, 3) from photo to crop coordinates.
        size, warp_factor, convention: See [`warp_image`].

    Returns:
        (faces, channels, size, size).
    """
    first = pixel_centre(convention)
    crops = []
    for matrix in matrices:
        scale = float(torch.linalg.det(matrix[:2, :2].double()).abs().sqrt())
        factor = min(16, max(1, math.ceil(1 / max(scale, 1e-6))))
        # Larger about the crop's outer edge, which lies half a pixel before the first index.
        shift = factor * (0.5 - first) - (0.5 - first)
        enlarge = matrix.new_tensor([[factor, 0, shift], [0, factor, shift], [0, 0, 1]])
        crop = warp_image(image[None], (enlarge @ matrix)[None], factor * size, warp_factor, convention)
        crops.append(nn.functional.avg_pool2d(crop, factor))
    return torch.cat(crops) if crops else image.new_zeros(0, image.shape[0], size, size)


# --------------------------------------------------------------------------------------------- landmarks, heat maps


def landmarks_from_heatmaps(probabilities: torch.Tensor) -> torch.Tensor:
    """
    Mean position under the mass of each heat map, in fp32 (`farl/network/geometry.py`). No softmax: the background's
    mass pulls towards the middle unless training has emptied it.

    Args:
        probabilities: (batch, landmarks, height, width), sigmoid heat maps.

    Returns:
        (batch, landmarks, 2) float32: x then y, normalised as `(pixel + 0.5) / size`.
    """
    p = probabilities.float()
    height, width = p.shape[-2:]
    mass = p.sum(dim=(-2, -1)).clamp(min=1e-6)
    x = (p.sum(dim=-2) * torch.arange(width, device=p.device)).sum(dim=-1) / mass
    y = (p.sum(dim=-1) * torch.arange(height, device=p.device)).sum(dim=-1) / mass
    return torch.stack([(x + 0.5) / width, (y + 0.5) / height], dim=-1)


def target_heatmaps(landmarks: torch.Tensor, size: int = 128, radius: float = 5.0) -> torch.Tensor:
    """
    The original's target heat maps (`points2heatmap` with kind `gaussian_awing`): `exp(-8 r^2 / radius^2)` at distance
    `r` up to `radius`, zero beyond.

    Args:
        landmarks: (batch, landmarks, 2), normalised as `(pixel + 0.5) / size`.
        size: Side of the maps, 128 in the original.
        radius: In pixels of the maps, 5 in the original.

    Returns:
        (batch, landmarks, size, size) float32, 1 where a landmark lies on a pixel's centre.
    """
    pixels = landmarks.float() * size - 0.5
    axis = torch.arange(size, dtype=torch.float32, device=landmarks.device)
    dx2 = (pixels[..., 0, None] - axis).square()
    dy2 = (pixels[..., 1, None] - axis).square()
    # Far from the landmark the exponentials would be denormal numbers, which CPUs are slow at.
    near_x, near_y = (torch.exp(-8 / radius**2 * d2.clamp(max=radius**2)) for d2 in (dx2, dy2))
    values = near_y[..., :, None] * near_x[..., None, :]
    return values.masked_fill_(dy2[..., :, None] + dx2[..., None, :] > radius**2, 0.0)


def facer_landmarks(
    probabilities: torch.Tensor, matrix: torch.Tensor, size: int, height: int, width: int, rows_at_once: int = 64
) -> torch.Tensor:
    """
    facer's decoding (`face_alignment/farl.py`): heat maps enlarged to the crop, carried back into the photo, and their
    mean position taken there. Mass outside of the crop is lost, so flat maps differ from
    [`landmarks_from_heatmaps`]; for peaked ones the two agree. Memory grows with the rows taken at once, not with the
    photo.

    Args:
        probabilities: (faces, landmarks, h, w), sigmoid heat maps.
        matrix: (faces, 3, 3) from the photo to the crop, convention `"facer"`, no warp.
        size: Side of the crop in pixels.
        height, width: Of the photo.
        rows_at_once: Rows of the photo in one pass.

    Returns:
        (faces, landmarks, 2) float32, pixel indices in the photo.
    """
    crop = nn.functional.interpolate(probabilities.float(), size=(size, size), mode="bilinear", align_corners=False)
    faces, landmarks = crop.shape[:2]
    sums = crop.new_zeros(faces, landmarks, 3, dtype=torch.float64)
    # Only rows and columns that the crop reaches hold mass.
    corners = crop_to_photo(
        matrix.new_tensor([[0, 0], [size, 0], [size, size], [0, size]]).expand(faces, -1, -1), matrix, size
    )
    top, bottom = _pixel_range(corners[..., 1], height)
    left, right = _pixel_range(corners[..., 0], width)
    x = torch.arange(left, right, device=crop.device, dtype=torch.float64)
    for start in range(top, bottom, rows_at_once):
        y = torch.arange(start, min(start + rows_at_once, bottom), device=crop.device, dtype=torch.float64)
        grid = torch.stack(torch.meshgrid(x + 0.5, y + 0.5, indexing="xy"), dim=-1).to(matrix.dtype)
        coordinates = photo_to_crop(grid.reshape(1, -1, 2).expand(faces, -1, -1), matrix, size)
        mass = sample(crop, coordinates.unflatten(1, (len(y), len(x))), "facer").double()
        by_column, by_row = mass.sum(dim=-2), mass.sum(dim=-1)
        sums += torch.stack([(by_column * x).sum(-1), (by_row * y).sum(-1), by_row.sum(-1)], dim=-1)
    return (sums[..., :2] / sums[..., 2:].clamp(min=1e-6)).float()


def _pixel_range(coordinates: torch.Tensor, length: int) -> tuple[int, int]:
    """First and one past the last pixel index that continuous `coordinates` span, inside of [0, length]."""
    first = max(0, math.floor(float(coordinates.min())) - 1)
    last = min(length, math.ceil(float(coordinates.max())) + 1)
    return first, max(first, last)
