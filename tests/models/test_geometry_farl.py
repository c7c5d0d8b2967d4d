import math

import golden_cases as cases
import numpy as np
import pytest
import torch
from torch import nn

from farl_hf import geometry_farl as geometry

FACE = torch.tensor([[30.0, 40], [70, 42], [51, 60], [36, 81], [65, 80]], dtype=torch.float64)


@pytest.mark.parametrize(
    "size, scale, expected",
    [
        (512, 1.0, [(195.6172, 225.5586), (315.3828, 225.5586), (255.5, 285.4414), (219.5703, 359.6961)]),
        (448, 1.0, [(171.1172, 197.3086), (275.8828, 197.3086), (223.5, 249.6914), (192.0703, 314.6461)]),
        (448, 0.8, [(181.5938, 202.5469), (265.4062, 202.5469), (223.5, 244.4531), (198.3562, 296.4169)]),
    ],
)
def test_standard_points_of_the_original(size, scale, expected):
    points = geometry.standard_five_points(size, scale)[:4]
    assert torch.allclose(points, torch.tensor(expected, dtype=torch.float64), atol=1e-4)


def test_celeba_points_of_facer():
    expected = [
        (93.1078, 106.5251),
        (130.3918, 105.8795),
        (111.8092, 129.4723),
        (95.2880, 146.3622),
        (129.6095, 145.7672),
    ]
    points = geometry.celeba_five_points(224)
    assert torch.allclose(points, torch.tensor(expected, dtype=torch.float64), atol=1e-3)


def test_similarity_equals_umeyama():
    """Against scikit-image, which the original uses."""
    from skimage.transform import SimilarityTransform

    torch.manual_seed(0)
    for _ in range(20):
        source = FACE + 3 * torch.randn(5, 2, dtype=torch.float64)
        target = geometry.standard_five_points(512)
        expected = SimilarityTransform.from_estimate(source.numpy(), target.numpy()).params
        assert torch.allclose(geometry.similarity_from_points(source, target), torch.from_numpy(expected), atol=1e-9)


def test_alignment_undoes_any_similarity():
    angle, scale = 2.1, 3.7
    rotation = scale * torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]).double()
    standard = geometry.standard_five_points(448)
    photo = standard @ rotation.T + 500
    matrix = geometry.face_align_matrix(photo, 448)
    assert torch.allclose(geometry.apply_matrix(matrix, photo), standard, atol=1e-8)


@pytest.mark.parametrize(
    "points, message",
    [
        (torch.full((5, 2), 7.0), "one place"),
        (torch.tensor([[0.0, 0], [1, 1], [float("nan"), 2], [3, 3], [4, 4]]), "not finite"),
    ],
)
def test_degenerate_points(points, message):
    with pytest.raises(ValueError, match=message):
        geometry.face_align_matrix(points, 448)


def test_celebamask_hq_quad():
    """FFHQ's frame written down from its definition: the quad's corners become the crop's."""
    eye_left, eye_right, _, mouth_left, mouth_right = FACE
    eyes, mouth = (eye_left + eye_right) / 2 + 0.5, (mouth_left + mouth_right) / 2 + 0.5
    x = (eye_right - eye_left) - torch.stack([-(mouth - eyes)[1], (mouth - eyes)[0]])
    x = x / x.norm() * max(2.0 * (eye_right - eye_left).norm(), 1.8 * (mouth - eyes).norm())
    y = torch.stack([-x[1], x[0]])
    centre = eyes + 0.1 * (mouth - eyes)
    matrix = geometry.celebamask_hq_matrix(FACE, 448)
    corners = geometry.apply_matrix(matrix, torch.stack([centre - x - y, centre + x + y]))
    assert torch.allclose(corners, torch.tensor([[0.0, 0], [448, 448]], dtype=torch.float64), atol=1e-8)


def test_box_crops():
    box = torch.tensor([10.0, 20, 110, 220], dtype=torch.float64)
    corners = torch.tensor([[10.0, 20], [110, 220]], dtype=torch.float64)
    # x' = (x - x1) / (x2 - x1) * 512 - 0.5
    matrix = geometry.box_crop_matrix(box, 512)
    assert torch.allclose(geometry.apply_matrix(matrix, corners), torch.tensor([[-0.5, -0.5], [511.5, 511.5]]).double())
    # scale_mu is a scaling about (size - 1) / 2
    scaled = geometry.box_crop_matrix(box, 512, scale=0.8)
    expected = (geometry.apply_matrix(matrix, corners) - 255.5) * 0.8 + 255.5
    assert torch.allclose(geometry.apply_matrix(scaled, corners), expected)
    for bad in ([10.0, 20, 10, 40], [30.0, 20, 10, 40]):
        with pytest.raises(ValueError, match="no area"):
            geometry.box_crop_matrix(torch.tensor(bad), 512)


def test_training_jitter_turns_about_the_middle():
    matrix = geometry.random_similarity_matrix(
        torch.tensor(0.3).double(), torch.tensor(1.2).double(), torch.tensor([4.0, -7]).double(), 512
    )
    middle = geometry.apply_matrix(matrix, torch.tensor([[255.5, 255.5]]).double())
    assert torch.allclose(middle, torch.tensor([[259.5, 248.5]]).double())
    cos, sin = 1.2 * math.cos(0.3), 1.2 * math.sin(0.3)
    assert torch.allclose(matrix[:2, :2], torch.tensor([[cos, -sin], [sin, cos]]).double())


def test_tanh_warp_values():
    n = torch.tensor([0.2, 1.0, -0.6], dtype=torch.float64)
    expected = torch.tensor([0.2, 0.8 * math.tanh(1) + 0.2, -(0.8 * math.tanh(0.5) + 0.2)], dtype=torch.float64)
    assert torch.allclose(geometry.tanh_warp(n, 0.8), expected)
    assert torch.equal(geometry.tanh_warp(n, 0.0), n)
    inside = torch.linspace(-3, 3, 101, dtype=torch.float64)
    assert torch.allclose(geometry.inverse_tanh_warp(geometry.tanh_warp(inside, 0.8), 0.8), inside, atol=1e-9)
    # Clamped: everything further out comes back at 0.2 + 0.8 arctanh(0.999).
    far = geometry.inverse_tanh_warp(torch.tensor([1.0, -1.5]).double(), 0.8)
    assert torch.allclose(far, torch.tensor([1, -1]).double() * (0.2 + 0.8 * math.atanh(0.999)))


@pytest.mark.parametrize("warp_factor", [0.0, 0.8])
@pytest.mark.parametrize("face_size", [20, 300, 4000])
def test_points_come_back(warp_factor, face_size):
    torch.manual_seed(0)
    for angle in torch.linspace(0, 6, 7).tolist():
        rotation = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        photo = ((FACE.float() - 50) / 60 * face_size) @ rotation.T + face_size
        matrix = geometry.face_align_matrix(photo.double(), 448, 0.8).float()
        crop = geometry.photo_to_crop(photo, matrix, 448, warp_factor)
        back = geometry.crop_to_photo(crop, matrix, 448, warp_factor)
        assert (back - photo).abs().max() < 0.05


@pytest.mark.parametrize("convention", ["farl", "facer"])
def test_sampling_conventions(convention):
    """A ramp tells which coordinate each pixel of the crop shows."""
    x = torch.arange(64, dtype=torch.float32).expand(64, 64)
    ramp = torch.stack([x, x.t()])[None]
    scale = 2.0
    matrix = torch.tensor([[[scale, 0, -20], [0, scale, -30], [0, 0, 1]]])
    crop = geometry.warp_image(ramp, matrix, 40, 0.0, convention)[0]
    index = torch.arange(40, dtype=torch.float32)
    centre = 0.0 if convention == "farl" else 0.5
    expected = (index + centre + 20) / scale - centre
    assert torch.allclose(crop[0, 20], expected, atol=1e-4)
    expected = (index + centre + 30) / scale - centre
    assert torch.allclose(crop[1, :, 20], expected, atol=1e-4)


def test_warp_equals_opencv_style_remap():
    """Path A samples at integer pixel indices with a zero border, checked pixel by pixel."""
    torch.manual_seed(0)
    image = torch.rand(1, 1, 30, 40, dtype=torch.float64)
    matrix = geometry.face_align_matrix(FACE[None] / 3, 64).float()
    coordinates = geometry.crop_sampling_map(matrix, 64, 0.8, "farl")
    crop = geometry.warp_image(image, matrix, 64, 0.8, "farl")[0, 0]
    padded = nn.functional.pad(image[0, 0], (50, 50, 50, 50))
    for row, column in ((0, 0), (10, 20), (31, 32), (63, 5), (40, 60)):
        x, y = coordinates[0, row, column].tolist()
        x, y = min(max(x, -49), 88), min(max(y, -49), 78)
        i, j, dy, dx = math.floor(y), math.floor(x), y - math.floor(y), x - math.floor(x)
        corners = padded[i + 50 : i + 52, j + 50 : j + 52]
        expected = (corners * torch.tensor([[(1 - dy) * (1 - dx), (1 - dy) * dx], [dy * (1 - dx), dy * dx]])).sum()
        assert crop[row, column].item() == pytest.approx(expected.item(), abs=1e-4)


def test_sampling_is_differentiable():
    image = torch.rand(1, 3, 50, 50, requires_grad=True)
    points = (FACE[None] / 2).clone().requires_grad_()
    matrix = geometry.face_align_matrix(points, 64).float()
    geometry.warp_image(image, matrix, 64, 0.8).square().sum().backward()
    assert image.grad.abs().sum() > 0 and points.grad.isfinite().all() and points.grad.abs().sum() > 0


def test_target_heatmaps():
    landmarks = (torch.tensor([[[10.0, 20], [0.0, 127]]]) + 0.5) / 128
    maps = geometry.target_heatmaps(landmarks)
    assert maps.shape == (1, 2, 128, 128)
    assert maps[0, 0, 20, 10].item() == pytest.approx(1, abs=1e-5)
    assert maps[0, 0, 20, 11].item() == pytest.approx(math.exp(-8 / 25), abs=1e-5)
    assert maps[0, 0, 20, 15].item() == pytest.approx(math.exp(-8), abs=1e-5) and maps[0, 0, 20, 16] == 0
    assert maps[0, 1, 127, 0].item() == pytest.approx(1, abs=1e-5)


def test_decoding_is_the_mean_under_the_mass():
    maps = torch.zeros(1, 2, 8, 16)
    maps[0, 0, 2, 5] = 1
    maps[0, 1, 1, 3], maps[0, 1, 5, 9] = 0.75, 0.25
    points = geometry.landmarks_from_heatmaps(maps)
    expected = torch.tensor([[5.5 / 16, 2.5 / 8], [(3 * 0.75 + 9 * 0.25 + 0.5) / 16, (0.75 + 5 * 0.25 + 0.5) / 8]])
    assert torch.allclose(points[0], expected) and points.dtype == torch.float32
    assert geometry.landmarks_from_heatmaps(maps.half()).dtype == torch.float32


def test_facer_decoding_agrees_for_peaked_maps():
    photo = FACE.float() * 4 + 100
    matrix = geometry.face_align_matrix(photo.double(), 448, 0.8).float()[None]
    landmarks = geometry.photo_to_crop(photo + 0.5, matrix, 448) / 448
    maps = geometry.target_heatmaps(landmarks, size=112)
    in_photo = geometry.facer_landmarks(maps, matrix, 448, 600, 500)
    assert (in_photo[0] - photo).abs().max() < 0.1
    in_slices = geometry.facer_landmarks(maps, matrix, 448, 600, 500, rows_at_once=7)
    assert torch.allclose(in_photo, in_slices, atol=1e-4)


@pytest.mark.parametrize("convention", ["farl", "facer"])
@pytest.mark.parametrize("warp_factor", [0.0, 0.8])
def test_sampling_grid_is_the_sampling_map_scaled(convention, warp_factor):
    matrix = torch.tensor([[0.9, -0.2, 11.0], [0.3, 0.8, -7.0], [0, 0, 1]])
    coordinates = geometry.crop_sampling_map(matrix[None], 24, warp_factor, convention)
    expected = geometry.grid_for_sampling(coordinates, 30, 50, convention)
    grid = geometry.crop_sampling_grid(matrix, 24, warp_factor, convention, 30, 50)
    assert grid.shape == (1, 24, 24, 2) and torch.allclose(grid, expected, atol=1e-5)


@pytest.mark.parametrize("convention", ["farl", "facer"])
@pytest.mark.parametrize("warp_factor", [0.0, 0.8])
def test_photo_map_is_where_pixels_lie_in_the_crop(convention, warp_factor):
    matrix = torch.tensor([[0.9, -0.2, 11.0], [0.3, 0.8, -7.0], [0, 0, 1]])
    pixels = geometry.pixel_grid(9, 7, convention, matrix) + torch.tensor([5.0, 3.0])
    in_crop = geometry.photo_to_crop(pixels, matrix, 24, warp_factor)
    expected = ((in_crop + 0.5 - geometry.pixel_centre(convention)) / 24).reshape(9, 7, 2)
    found = torch.stack(geometry.photo_sampling_map(matrix, (5, 3, 12, 12), 24, warp_factor, convention), dim=-1)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


# ------------------------------------------------- numbers from elsewhere, which no round trip through our own code has


def test_decoding_of_the_originals_heatmaps():
    golden = cases.numbers("align_ibug300w")
    maps = torch.from_numpy(golden["head_full_first4_img0"])[None].float()
    points = geometry.landmarks_from_heatmaps(maps.sigmoid())[0].numpy()
    assert np.abs(points * 448 - 0.5 - golden["landmarks_px"][0, :4]).max() < 0.002


def test_targets_of_the_original():
    golden = cases.numbers("align_ibug300w")
    maps = geometry.target_heatmaps(torch.from_numpy(golden["target_landmarks_norm"])).numpy().ravel()
    wanted = np.zeros_like(maps)
    wanted[golden["target_heatmap_idx"]] = golden["target_heatmap_val"]
    assert np.abs(maps - wanted).max() < 1e-5


@pytest.mark.parametrize("warp_factor", [0.8, 0.3])
def test_warped_coordinates_by_hand(warp_factor):
    """Both directions against the formula with scalars: normalised by the size, the same in x and y."""
    size = 64
    matrix = torch.tensor([[1.5, 0.25, 3.0], [-0.25, 1.5, 7.0], [0, 0, 1.0]], dtype=torch.float64)
    photo = torch.tensor([[10.0, 12], [30, 4], [-5, 40], [41, 37]], dtype=torch.float64)
    start = 1 - warp_factor
    expected = []
    for px, py in photo.tolist():
        aligned = (1.5 * px + 0.25 * py + 3, -0.25 * px + 1.5 * py + 7)
        point = []
        for coordinate in aligned:
            n = coordinate / size * 2 - 1
            if abs(n) > start:
                n = math.copysign(start + warp_factor * math.tanh((abs(n) - start) / warp_factor), n)
            point.append((n + 1) / 2 * size)
        expected.append(point)
    expected = torch.tensor(expected, dtype=torch.float64)
    assert torch.allclose(geometry.photo_to_crop(photo, matrix, size, warp_factor), expected, atol=1e-9)
    assert torch.allclose(geometry.crop_to_photo(expected, matrix, size, warp_factor), photo, atol=1e-7)


def test_nothing_is_outside_of_a_photo():
    """A crop half a pixel beyond the photo's edge mixes in half of black, and further out there is nothing else."""
    matrix = torch.tensor([[[1.0, 0, 2.5], [0, 1, 0], [0, 0, 1]]])
    crop = geometry.warp_image(torch.ones(1, 1, 8, 8), matrix, 8, 0.0, "farl")[0, 0]
    assert torch.equal(crop[0], torch.tensor([0, 0, 0.5, 1, 1, 1, 1, 1]))
