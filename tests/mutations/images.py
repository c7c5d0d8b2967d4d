"""Mistakes in geometry, image loading and image processing."""

from . import Mutation

GEOMETRY = "farl_hf/models/geometry_farl.py"
LOADING = "farl_hf/models/image_loading_farl.py"
PROCESSING = "farl_hf/models/image_processing_farl.py"


def geometry(old: str, new: str, test: str) -> Mutation:
    return Mutation(GEOMETRY, old, new, (f"tests/models/test_geometry_farl.py::{test}",))


def loading(old: str, new: str, test: str) -> Mutation:
    return Mutation(LOADING, old, new, (f"tests/models/test_image_loading_farl.py::{test}",))


def processing(old: str, new: str, test: str) -> Mutation:
    return Mutation(PROCESSING, old, new, (f"tests/models/test_image_processing_farl.py::{test}",))


MUTATIONS = [
    geometry(
        "return (tanh_warp(2 * aligned / size - 1, warp_factor) + 1) / 2 * size",
        "return (tanh_warp(2 * aligned / (size - 1) - 1, warp_factor) + 1) / 2 * (size - 1)",
        "test_warped_coordinates_by_hand",
    ),
    geometry(
        "points = (inverse_tanh_warp(2 * points / size - 1, warp_factor) + 1) / 2 * size",
        "points = (inverse_tanh_warp(2 * points / (size - 1) - 1, warp_factor) + 1) / 2 * (size - 1)",
        "test_warped_coordinates_by_hand",
    ),
    geometry("_ATANH_LIMIT = 0.999", "_ATANH_LIMIT = 0.99", "test_tanh_warp_values"),
    geometry(
        'mode=mode, padding_mode="zeros"', 'mode=mode, padding_mode="border"', "test_nothing_is_outside_of_a_photo"
    ),
    geometry("middle = (size - 1) / 2\n    scale_x", "middle = size / 2\n    scale_x", "test_box_crops"),
    geometry(
        "(standard * face_scale + 1) * (size - 1) / 2",
        "(standard * face_scale + 1) * size / 2",
        "test_standard_points_of_the_original",
    ),
    geometry(
        "(template + shift - 128 + 250) * size / 500",
        "(template - 128 + 250) * size / 500",
        "test_celeba_points_of_facer",
    ),
    geometry(
        "[(x + 0.5) / width, (y + 0.5) / height]", "[x / width, y / height]", "test_decoding_of_the_originals_heatmaps"
    ),
    geometry(
        "pixels = landmarks.float() * size - 0.5", "pixels = landmarks.float() * size", "test_targets_of_the_original"
    ),
    geometry("torch.exp(-8 / radius**2", "torch.exp(-4 / radius**2", "test_targets_of_the_original"),
    geometry("centre = eyes + 0.1 * eye_to_mouth", "centre = eyes", "test_celebamask_hq_quad"),
    loading("return ImageOps.exif_transpose(image)", "return image", "test_photos_are_turned_upright"),
    loading(
        '_DEEP_MODES = ("I", "F", "I;16"', '_DEEP_MODES = ("I", "F"', "test_path_and_picture_give_the_same_numbers"
    ),
    loading("next(top for top in (255, 65535, bits.max) if high <= top)", "bits.max", "test_integers"),
    loading("axes = (0, 2) if isinstance(image, torch.Tensor) else (2, 0)", "axes = (0, 2)", "test_shapes"),
    loading(
        "if not (low >= -_FLOAT_TOLERANCE",
        "if high > 1e9 and not (low >= -_FLOAT_TOLERANCE",
        "test_bad_images_are_named",
    ),
    processing(
        "matrix[..., :2, 2] += pixel_centre(self.convention)",
        "matrix[..., :2, 2] += 0",
        "test_every_pixel_of_a_box_crop_shows_its_place",
    ),
    Mutation(
        GEOMETRY,
        "shift = (0.5 - first) / size",
        "shift = 0.0",
        ("tests/models/test_image_processing_farl.py::test_labels_are_pasted_at_their_place",),
    ),
    processing("in reversed(list(zip(", "in list(list(zip(", "test_the_first_of_overlapping_faces_is_on_top"),
    processing(
        "return len(face_transforms.image_sizes)",
        "return max((t.image_index for t in face_transforms), default=-1) + 1",
        "test_one_answer_per_photo",
    ),
    processing(
        "points = landmarks * transform.crop_size - 0.5 + centre",
        "points = landmarks * transform.crop_size + centre",
        "test_whole_images",
    ),
    processing("_FARL_CANVAS = 512", "_FARL_CANVAS = 448", "test_farl_convention_resizes_a_512_crop"),
]
