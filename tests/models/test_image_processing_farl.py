"""Face crops and the way back."""

import copy
import math
import resource
from types import SimpleNamespace

import golden_cases as cases
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn

from farl_hf import FaRLFaceImageProcessor
from farl_hf.models.geometry_farl import photo_to_crop, standard_five_points
from farl_hf.models.image_processing_farl import FaceTransform, to_rgb_tensor


def five_points(centre=(300.0, 240.0), size=120.0, angle=0.0) -> np.ndarray:
    """The standard face, `size` pixels across, turned by `angle` (radians)."""
    standard = (standard_five_points(512).numpy() - 255.5) / 256 * size
    cos, sin = math.cos(angle), math.sin(angle)
    return standard @ np.array([[cos, sin], [-sin, cos]]) + np.array(centre)


def segmentation_outputs(labels: torch.Tensor, classes: int, size: int = 512) -> SimpleNamespace:
    """Logits as a sharp network would give for crops of label maps."""
    logits = nn.functional.one_hot(labels.long(), classes).permute(0, 3, 1, 2).float() * 10
    return SimpleNamespace(logits=nn.functional.interpolate(logits, size=(size, size), mode="bilinear"))


@pytest.mark.parametrize("convention", ["farl", "facer"])
@pytest.mark.parametrize("align, warp_factor", [("lapa", 0.8), ("lapa", 0.0), ("celeba", 0.0), ("celebamask_hq", 0.0)])
def test_landmarks_come_back(align, warp_factor, convention):
    processor = FaRLFaceImageProcessor(align=align, warp_factor=warp_factor, convention=convention)
    photo = torch.zeros(3, 480, 640)
    for size in (20.0, 200.0, 4000.0):
        for angle in (0.0, 1.0, 3.0):
            points = five_points(size=size, angle=angle)
            inputs = processor(photo, face_points=points[None])
            (transform,) = inputs["face_transforms"]
            target = torch.as_tensor(points, dtype=torch.float32)
            shift = 0.0 if convention == "farl" else 0.5
            crop = photo_to_crop(target + shift, transform.matrix, transform.crop_size, warp_factor) - shift
            outputs = SimpleNamespace(landmarks=((crop + 0.5) / transform.crop_size)[None])
            (found,) = processor.post_process_landmarks(outputs, [transform])
            assert (found[0] - target).abs().max() < 0.05


def test_box_crop_shows_the_box():
    photo = torch.zeros(3, 200, 300)
    photo[:, 50:150, 100:200] = 1
    processor = FaRLFaceImageProcessor(
        align="box", size=448, convention="farl", image_mean=[0, 0, 0], image_std=[1, 1, 1]
    )
    crop = processor(photo, boxes=[[99.5, 49.5, 199.5, 149.5]]).pixel_values
    assert crop.shape == (1, 3, 448, 448) and crop[:, :, 4:-4, 4:-4].min() > 0.999
    wider = FaRLFaceImageProcessor(
        align="box", target_face_scale=0.5, convention="facer", image_mean=[0, 0, 0], image_std=[1, 1, 1]
    )
    crop = wider(photo, boxes=[[100, 50, 200, 150]]).pixel_values[0, 0]
    assert crop[116:332, 116:332].min() > 0.999 and crop[:108].max() == 0 and crop[:, 340:].max() == 0


def test_farl_convention_resizes_a_512_crop():
    photo = torch.rand(3, 300, 400)
    identity = {"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}
    points = five_points((200, 150), 100)[None]
    at_512 = FaRLFaceImageProcessor(align="lapa", size=512, convention="farl", **identity)(photo, face_points=points)
    at_448 = FaRLFaceImageProcessor(align="lapa", size=448, convention="farl", **identity)(photo, face_points=points)
    expected = nn.functional.interpolate(at_512.pixel_values, size=448, mode="bilinear", align_corners=False)
    assert torch.equal(at_448.pixel_values, expected)


@pytest.mark.parametrize("convention", ["farl", "facer"])
@pytest.mark.parametrize("align, warp_factor", [("lapa", 0.8), ("celebamask_hq", 0.0)])
@pytest.mark.parametrize("angle", [0.0, 0.7])
def test_masks_come_back(align, warp_factor, convention, angle):
    """Paint a mask on the photo, crop it, paste it back."""
    height, width = 480, 640
    painting = Image.new("L", (width, height))
    points = five_points(size=150, angle=angle)
    ImageDraw.Draw(painting).ellipse([230, 150, 370, 330], fill=255)
    mask = torch.from_numpy(np.array(painting) > 0)
    processor = FaRLFaceImageProcessor(align=align, warp_factor=warp_factor, convention=convention)
    inputs = processor(mask[None].float().expand(3, -1, -1), face_points=points[None])
    crop = inputs.pixel_values * torch.tensor(processor.image_std).view(3, 1, 1) + torch.tensor(
        processor.image_mean
    ).view(3, 1, 1)
    outputs = segmentation_outputs(crop[:, 0] > 0.5, classes=2)
    (labels,) = processor.post_process_semantic_segmentation(outputs, inputs["face_transforms"])
    assert labels.shape == (height, width)
    found = labels == 1
    assert (found & mask).sum() / (found | mask).sum() > 0.97


def test_labels_are_the_argmax_of_interpolated_logits():
    """The shortcut for uniform regions against plain interpolation of all logits at every pixel."""
    torch.manual_seed(0)
    coarse = torch.randn(2, 5, 12, 12)
    coarse[:, 0, :3] += 5
    logits = nn.functional.interpolate(coarse, size=64, mode="bicubic")
    processor = FaRLFaceImageProcessor(align="lapa", warp_factor=0.8, convention="facer", size=64)
    photo = torch.rand(3, 90, 120)
    points = np.stack([five_points((60, 45), 40), five_points((80, 30), 25, angle=0.5)])
    transforms = processor(photo, face_points=points)["face_transforms"]
    outputs = SimpleNamespace(logits=logits)
    faces = processor.post_process_semantic_segmentation(outputs, transforms, output="faces")
    y, x = torch.meshgrid(torch.arange(90) + 0.5, torch.arange(120) + 0.5, indexing="ij")
    pixels = torch.stack([x, y], dim=-1).reshape(1, -1, 2)
    for i, (face, transform) in enumerate(zip(faces, transforms, strict=True)):
        grid = 2 * photo_to_crop(pixels, transform.matrix[None], 64, 0.8).reshape(1, 90, 120, 2) / 64 - 1
        plain = nn.functional.grid_sample(logits[i : i + 1], grid, align_corners=False)[0]
        x1, y1, x2, y2 = face.box
        expected = plain.argmax(dim=0)
        assert (face.labels == expected[y1:y2, x1:x2]).float().mean() > 0.999
        outside = torch.ones(90, 120, dtype=torch.bool)
        outside[y1:y2, x1:x2] = False
        assert (expected[outside] == 0).all()
    probabilities = processor.post_process_semantic_segmentation(outputs, transforms, output="probabilities")
    assert torch.allclose(probabilities[0].probabilities.sum(dim=0), torch.ones(()), atol=1e-5)


def test_many_images_many_faces():
    processor = FaRLFaceImageProcessor(align="lapa", size=64, convention="facer")
    images = [Image.new("RGB", (200, 100)), np.zeros((50, 60), dtype=np.uint8), torch.rand(3, 80, 90)]
    points = [np.stack([five_points((50, 50), 30), five_points((150, 50), 30)]), [], five_points((40, 40), 30)[None]]
    inputs = processor(images, face_points=points)
    assert inputs.pixel_values.shape == (3, 3, 64, 64)
    assert [t.image_index for t in inputs["face_transforms"]] == [0, 0, 2]
    outputs = SimpleNamespace(landmarks=torch.full((3, 68, 2), 0.5))
    landmarks = processor.post_process_landmarks(outputs, inputs["face_transforms"])
    assert [tuple(x.shape) for x in landmarks] == [(2, 68, 2), (0, 68, 2), (1, 68, 2)]
    maps = processor.post_process_semantic_segmentation(
        segmentation_outputs(torch.ones(3, 8, 8), 2, 8), inputs["face_transforms"]
    )
    assert tuple(maps[0].shape) == (100, 200) and tuple(maps[2].shape) == (80, 90)


def test_no_faces_is_an_ordinary_result():
    processor = FaRLFaceImageProcessor(align="lapa", size=64)
    inputs = processor(Image.new("RGB", (100, 100)), face_points=[])
    assert inputs.pixel_values.shape == (0, 3, 64, 64) and inputs["face_transforms"] == []
    outputs = SimpleNamespace(landmarks=torch.zeros(0, 68, 2), logits=torch.zeros(0, 11, 8, 8))
    (landmarks,) = processor.post_process_landmarks(outputs, inputs["face_transforms"])
    assert landmarks.shape == (0, 68, 2)
    (labels,) = processor.post_process_semantic_segmentation(outputs, inputs["face_transforms"])
    assert labels.shape == (100, 100) and not labels.any()
    for kind in ("faces", "probabilities"):
        assert processor.post_process_semantic_segmentation(outputs, inputs["face_transforms"], output=kind) == []


@pytest.mark.parametrize("counts", [[1, 2, 0], [0, 1, 0], [0, 0, 0], [2]])
def test_one_answer_per_photo(counts):
    processor = FaRLFaceImageProcessor(align="lapa", size=64, convention="facer")
    sizes = [(60, 80), (50, 70), (90, 40)][: len(counts)]
    points = [np.array([five_points((30, 30), 25)] * count).reshape(-1, 5, 2) for count in counts]
    inputs = processor([torch.rand(3, *size) for size in sizes], face_points=points)
    outputs = SimpleNamespace(landmarks=torch.full((sum(counts), 68, 2), 0.5), logits=torch.zeros(sum(counts), 2, 8, 8))
    outputs.logits[:, 1] = 1
    for given in (inputs["face_transforms"], copy.deepcopy(inputs["face_transforms"])):
        maps = processor.post_process_semantic_segmentation(outputs, given)
        assert [tuple(labels.shape) for labels in maps] == sizes
        assert [bool(labels.any()) for labels in maps] == [count > 0 for count in counts]
        landmarks = processor.post_process_landmarks(outputs, given)
        assert [len(found) for found in landmarks] == counts
    if counts == [0, 1, 0]:
        with pytest.raises(ValueError, match=r"Photo 0 has no face.*as the processor returned them"):
            processor.post_process_semantic_segmentation(outputs, list(inputs["face_transforms"]))


@pytest.mark.parametrize("align, message", [("lapa", r"face_points=.*align = None"), ("box", r"boxes=.*align = None")])
def test_cutting_needs_to_know_where(align, message):
    processor = FaRLFaceImageProcessor(align=align, size=64)
    with pytest.raises(ValueError, match=message):
        processor(torch.rand(3, 80, 90))
    processor.align = None
    assert processor(torch.rand(3, 80, 90)).pixel_values.shape == (1, 3, 64, 64)


def test_whole_images():
    processor = FaRLFaceImageProcessor(align=None, size=64, convention="farl")
    inputs = processor([torch.rand(3, 100, 50), torch.rand(3, 30, 30)])
    assert inputs.pixel_values.shape == (2, 3, 64, 64)
    labels = torch.zeros(2, 32, 32, dtype=torch.long)
    labels[:, :16] = 1
    outputs = segmentation_outputs(labels, 2, 32)
    first, second = processor.post_process_semantic_segmentation(outputs, inputs["face_transforms"])
    assert first.shape == (100, 50) and (first[:49] == 1).all() and (first[51:] == 0).all() and second.shape == (30, 30)
    (big,) = processor.post_process_semantic_segmentation(
        SimpleNamespace(logits=outputs.logits[:1]), inputs["face_transforms"][:1], target_sizes=[(512, 512)]
    )
    expected = nn.functional.interpolate(outputs.logits[:1], size=512, mode="bilinear").argmax(dim=1)[0]
    assert (big == expected).float().mean() > 0.999
    without = processor.post_process_semantic_segmentation(outputs, target_sizes=[(10, 10), (20, 20)])
    assert [tuple(m.shape) for m in without] == [(10, 10), (20, 20)]
    points = SimpleNamespace(landmarks=torch.tensor([[[0.5, 0.5]]]))
    (landmarks,) = processor.post_process_landmarks(points, inputs["face_transforms"][:1])
    assert torch.allclose(landmarks[0], torch.tensor([[24.5, 49.5]]), atol=1e-3)


def test_kinds_of_images():
    rgb = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    expected = torch.from_numpy(rgb).permute(2, 0, 1) / 255
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = Image.fromarray(rgb)
    turned.getexif()[0x0112] = 3
    for image in (Image.fromarray(rgb), rgb, torch.from_numpy(rgb).permute(2, 0, 1), expected):
        assert torch.allclose(to_rgb_tensor(image), expected)
    assert torch.allclose(to_rgb_tensor(turned), expected.flip(1, 2))
    grey16 = Image.fromarray(np.full((4, 4), 32768, dtype=np.uint16))
    assert to_rgb_tensor(grey16).mean().item() == pytest.approx(0.5, abs=1e-4)
    # The type decides about the range, not the values: facer fails on a dark image.
    assert to_rgb_tensor(np.ones((4, 4, 3), dtype=np.uint8)).max().item() == pytest.approx(1 / 255)


def test_gradient_flows_from_the_crop_to_the_photo():
    photo = torch.rand(3, 80, 80, requires_grad=True)
    processor = FaRLFaceImageProcessor(align="lapa", size=32, warp_factor=0.8)
    processor(photo, face_points=five_points((40, 40), 40)[None]).pixel_values.square().sum().backward()
    assert photo.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"face_points": [np.full((5, 2), 3.0)]}, "Image 0, face 0.*one place"),
        ({"face_points": [five_points(), np.full((5, 2), np.nan)]}, "Image 0, face 1.*not finite"),
        ({"face_points": [np.zeros((4, 2))]}, r"\(faces, 5, 2\)"),
        ({"boxes": [[0, 0, 10, 10]]}, "five points"),
        ({"face_points": [five_points()], "boxes": [[0, 0, 1, 1]]}, "not both"),
    ],
)
def test_bad_faces(arguments, message):
    processor = FaRLFaceImageProcessor(align="lapa", size=32)
    with pytest.raises(ValueError, match=message):
        processor(torch.rand(3, 100, 100), **arguments)


def test_bad_images():
    processor = FaRLFaceImageProcessor(align="box", size=32)
    with pytest.raises(ValueError, match="Image 1 is 1 x 1"):
        processor([torch.rand(3, 9, 9), torch.rand(3, 1, 1)], boxes=[[[0, 0, 5, 5]]] * 2)
    with pytest.raises(ValueError, match=r"Image 0, face 0.*no area"):
        processor(torch.rand(3, 9, 9), boxes=[[5, 5, 5, 8]])
    with pytest.raises(ValueError, match="shape"):
        processor(torch.rand(2, 9, 9), boxes=[[0, 0, 5, 5]])
    with pytest.raises(ValueError, match=r"Image 1: boxes are None.*\[\] where there is none"):
        processor([torch.rand(3, 9, 9)] * 2, boxes=[[[0, 0, 5, 5]], None])
    with pytest.raises(ValueError, match="1 images but face annotations for 2"):
        processor([torch.rand(3, 9, 9)], boxes=[[], []])
    with pytest.raises(ValueError, match="outputs for 2 faces but 0"):
        processor.post_process_landmarks(SimpleNamespace(landmarks=torch.zeros(2, 5, 2)), [])
    with pytest.raises(ValueError, match="align is 'eyes'"):
        FaRLFaceImageProcessor(align="eyes")


@pytest.mark.slow
def test_memory_of_a_24_megapixel_photo_with_50_faces():
    processor = FaRLFaceImageProcessor(align="lapa", size=448, warp_factor=0.8)
    points = np.stack([five_points((300 + 550 * (i % 10), 400 + 800 * (i // 10)), 250) for i in range(50)])
    inputs = processor(Image.new("RGB", (6000, 4000)), face_points=points)
    labels = torch.zeros(50, 512, 512, dtype=torch.long)
    labels[:, 100:400, 100:400] = torch.arange(300).repeat(300, 1) // 30
    logits = nn.functional.one_hot(labels, 11).permute(0, 3, 1, 2).float()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (photo,) = processor.post_process_semantic_segmentation(SimpleNamespace(logits=logits), inputs["face_transforms"])
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    assert photo.shape == (4000, 6000) and photo.max() == 9 and grown < 3, grown


# ------------------------------------------------------------------- exact places, by ramps instead of round trips


@pytest.mark.parametrize("convention, size", [("farl", 512), ("farl", 448), ("facer", 64)])
def test_every_pixel_of_a_box_crop_shows_its_place(convention, size):
    """The box's edges are the crop's: pixel i of n shows what lies (i + 0.5) / n along the box."""
    x = torch.arange(100.0).expand(100, 100) / 100
    processor = FaRLFaceImageProcessor(
        align="box", size=size, convention=convention, image_mean=[0, 0, 0], image_std=[1, 1, 1]
    )
    crop = processor(torch.stack([x, x.t(), x]), boxes=[[20.0, 30.0, 60.0, 80.0]]).pixel_values[0] * 100
    along = (torch.arange(size) + 0.5) / size
    # A box in continuous coordinates begins half a pixel before the index of the same number.
    first = 0.0 if convention == "farl" else -0.5
    inner = slice(size // 8, -size // 8)
    assert (crop[0, size // 2] - (20 + first + 40 * along))[inner].abs().max() < 2e-3
    assert (crop[1, :, size // 2] - (30 + first + 50 * along))[inner].abs().max() < 2e-3


@pytest.mark.parametrize("threshold", [10.25, 10.75])
@pytest.mark.parametrize("convention", ["farl", "facer"])
def test_labels_are_pasted_at_their_place(convention, threshold):
    """The border between two classes lies at a known fraction of a pixel of the map, so half a pixel more is seen."""
    size, photo_size, shift = 32, (40, 50), 5
    centre = 0.0 if convention == "farl" else 0.5
    matrix = torch.tensor([[1.0, 0, -shift], [0, 1, 0], [0, 0, 1]])
    transform = FaceTransform(0, photo_size, matrix, size, 0.0, convention)
    processor = FaRLFaceImageProcessor(align="lapa", size=size, convention=convention)
    ramp = torch.arange(float(size)).expand(size, size) - threshold  # by the map's pixel index
    logits = torch.stack([torch.zeros(size, size), ramp])
    outputs = SimpleNamespace(logits=logits[None])
    (labels,) = processor.post_process_semantic_segmentation(outputs, [transform])
    x = torch.arange(50) + centre - shift  # in the crop
    inside = (x > centre) & (x < size - 1 + centre)
    assert torch.equal(labels[20][inside], (x - centre > threshold).long()[inside])
    (face,) = processor.post_process_semantic_segmentation(outputs, [transform], output="faces")
    x1, y1, x2, y2 = face.box
    assert torch.equal(face.labels, labels[y1:y2, x1:x2].byte()) and (labels > 0).sum() == (face.labels > 0).sum()


def test_the_first_of_overlapping_faces_is_on_top():
    transforms = [
        FaceTransform(0, (40, 40), torch.tensor([[1.0, 0, -left], [0, 1, 0], [0, 0, 1]]), 32, 0.0, "farl")
        for left in (0, 8)
    ]
    logits = torch.zeros(2, 3, 32, 32)
    logits[0, 1], logits[1, 2] = 5, 5
    processor = FaRLFaceImageProcessor(align="lapa", size=32)
    (labels,) = processor.post_process_semantic_segmentation(SimpleNamespace(logits=logits), transforms)
    assert labels[16, 4] == 1 and labels[16, 20] == 1 and labels[16, 36] == 2


def test_the_originals_masks():
    """From its head's output to its masks, as whole images; nearly equal logits aside."""
    golden = cases.numbers("parsing_lapa")
    processor = FaRLFaceImageProcessor(align=None)
    outputs = SimpleNamespace(logits=torch.from_numpy(golden["head"]).float())
    maps = processor.post_process_semantic_segmentation(outputs, target_sizes=[(512, 512)] * 2)
    differing = np.flatnonzero((torch.stack(maps).numpy() != golden["mask_512"]).ravel())
    assert np.setdiff1d(differing, golden["ambiguous_512"]).size == 0
