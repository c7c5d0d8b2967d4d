"""The generator of three-dimensional faces: what is drawn, and that its truth agrees with the picture."""

import dataclasses

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

pytest.importorskip("anny", reason="needs farl_hf[synthetic]")
pytest.importorskip("warp", reason="needs farl_hf[synthetic]")

from farl_hf.datasets.flips import flip_permutation
from farl_hf.synthetic import (
    EFFECTS,
    SyntheticFaceConfig,
    SyntheticFaces,
    render_face_sample,
    render_faces,
    render_person,
    sample_person,
)

PLAIN = ("blur", "noise", "compression", "colour", "occluders", "glasses", "hats", "jewellery", "hair_shapes", "beards")
# Nothing hides the face or blurs the picture.
CLEAR = SyntheticFaceConfig(image_size=224, face_size=(0.6, 0.75), without=PLAIN)


def average_person():
    config = dataclasses.replace(CLEAR, without=(*PLAIN, "shape_variety", "expressions", "gaze", "perspective"))
    person = dataclasses.replace(sample_person(1, config), hair_style="bald", shape={}, details={})
    return person, config


@pytest.mark.parametrize("layout", [68, 98, 106, 19, 5])
def test_the_neutral_face_is_its_own_mirror_image(layout):
    person, config = average_person()
    face = render_person(person, 0, config, pose=(0, 0, 0), centre=(0.5, 0.5)).faces[0]
    points = face.landmarks[layout]
    permutation = [1, 0, 2, 4, 3] if layout == 5 else flip_permutation(layout)
    mirrored = points * [-1, 1] + [config.image_size - 1, 0]
    assert points.shape == (layout, 2) and points.dtype == np.float32
    np.testing.assert_allclose(mirrored[permutation], points, atol=0.15)


def test_pose_signs():
    person, config = average_person()

    def nose_from_eyes(pose):
        points = render_person(person, 0, config, pose=pose, centre=(0.5, 0.5)).faces[0].landmarks[68]
        return points[30] - points[36:48].mean(axis=0), points[45] - points[36]

    straight, _ = nose_from_eyes((0, 0, 0))
    assert nose_from_eyes((30, 0, 0))[0][0] > straight[0] + 5  # to the image's right
    assert nose_from_eyes((0, 20, 0))[0][1] > straight[1] + 2  # down
    eyes = nose_from_eyes((0, 0, 20))[1]  # clockwise: the image-right eye sinks
    assert np.degrees(np.arctan2(eyes[1], eyes[0])) == pytest.approx(20, abs=1.5)


def _border(mask):
    """Distance of each pixel's centre to a region's border."""
    return np.where(mask, distance_transform_edt(mask), distance_transform_edt(~mask)) - 0.5


def _at(field, points):
    column, row = np.clip(np.round(points).astype(int), 0, len(field) - 1).T
    return field[row, column]


def _disagreements(seeds, config):
    """Pixels between visible landmarks of WFLW's layout and what they name in the label map, for each part."""
    found = {"brows": [], "lips": [], "eyes": [], "far jaw": []}
    for seed in seeds:
        sample = render_face_sample(seed, config)
        labels, face = sample.celebamask_hq_labels, sample.faces[-1]
        points, visible = face.landmarks[98], face.visibility[98]

        def rows(first, last, visible=visible):
            return [i for i in range(first, last) if visible[i]]

        for first, name in ((33, 6), (42, 7)):
            if (labels == name).sum() > 30:
                found["brows"] += list(_at(distance_transform_edt(labels != name), points[rows(first, first + 9)]))
        lips = np.isin(labels, (11, 12, 13))
        if lips.sum() > 30:
            found["lips"] += list(_at(_border(lips), points[rows(76, 88)]))
        for first, name in ((60, 8), (68, 9)):
            if (labels == name).sum() > 30:
                found["eyes"] += list(_at(_border(labels == name), points[rows(first, first + 8)]))
        yaw = face.pose[0]
        if abs(yaw) > 20:
            inside = np.isin(labels, (2, *range(6, 14)))
            for i in rows(0, 16) if yaw < 0 else rows(17, 33):
                x, y = np.round(points[i]).astype(int)
                # Hair that hangs over the outline moves the border.
                near = labels[y - 4 : y + 5, x - 4 : x + 5]
                if 4 <= x < 220 and 4 <= y < 220 and not np.isin(near, (14, 4, 5)).any():
                    found["far jaw"].append(_at(_border(inside), points[i : i + 1])[0])
    return {name: np.array(values) for name, values in found.items()}


def _check_agreement(found):
    assert all(len(values) for values in found.values())
    assert (found["brows"] <= 1.5).mean() > 0.97
    assert (found["lips"] <= 1.5).mean() > 0.97
    assert (found["eyes"] <= 3.0).mean() > 0.95 and np.median(found["eyes"]) <= 1.5
    assert (found["far jaw"] <= 2.5).mean() > 0.95


def test_landmarks_agree_with_label_maps():
    _check_agreement(_disagreements(range(40, 56), CLEAR))


@pytest.mark.slow
def test_landmarks_agree_with_label_maps_in_500_pictures():
    _check_agreement(_disagreements(range(1000, 1500), CLEAR))


def _classes(seeds, config):
    lapa, celebamask_hq = set(), set()
    for sample in render_faces(seeds, config):
        lapa |= set(np.unique(sample.lapa_labels).tolist())
        celebamask_hq |= set(np.unique(sample.celebamask_hq_labels).tolist())
    return lapa, celebamask_hq


def test_all_classes_occur():
    lapa, celebamask_hq = _classes(range(24), SyntheticFaceConfig(image_size=64, hat=0.4, earrings=0.8, necklace=0.6))
    assert lapa == set(range(11)) and celebamask_hq == set(range(19))


@pytest.mark.slow
def test_no_class_is_missing_in_any_1000_pictures():
    counts = np.zeros(19, dtype=int)
    for sample in SyntheticFaces(1000, SyntheticFaceConfig(image_size=96), seed=3):
        counts[np.unique(sample.celebamask_hq_labels)] += 1
    # Earrings and necklaces are rare, all else is in a good share of the pictures.
    assert counts.min() >= 20 and np.delete(counts, [15, 16, 17, 18]).min() >= 200


def test_one_seed_one_picture():
    config = SyntheticFaceConfig(image_size=64, num_faces=(1, 3))
    first, again = render_face_sample(5, config), render_faces([4, 5], config)[1]
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.lapa_labels, again.lapa_labels)
    np.testing.assert_array_equal(first.faces[0].landmarks[68], again.faces[0].landmarks[68])
    assert first.faces[0].person == again.faces[0].person and first.captions == again.captions
    other = SyntheticFaces(2, config, seed=1)[1]
    np.testing.assert_array_equal(other.image, render_face_sample(1_000_001, config).image)
    assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("effect", EFFECTS)
def test_every_effect_can_be_switched_off(effect):
    always = SyntheticFaceConfig(
        image_size=64, blur=1, noise=1, grey=1, jpeg=1, occluder=1, beard=1, male=1, glasses=0.9, hat=0.9, earrings=1,
        necklace=1, face_size=(0.6, 0.7),
    )  # fmt: skip
    without = dataclasses.replace(always, without=(effect,))
    assert any(
        not np.array_equal(render_face_sample(seed, always).image, render_face_sample(seed, without).image)
        for seed in range(3)
    )


def test_the_held_out_style_differs():
    config = SyntheticFaceConfig(image_size=64)
    held_out = dataclasses.replace(config, style="held_out")
    lights = [{render_face_sample(i, c).metadata["light"]["kind"] for i in range(8)} for c in (config, held_out)]
    backs = [{render_face_sample(i, c).metadata["background"] for i in range(8)} for c in (config, held_out)]
    assert lights[0] - lights[1] and lights[1] - lights[0] and not backs[0] & backs[1]


def test_skin_tones_and_sexes_are_even_by_default():
    people = [sample_person(i) for i in range(400)]
    tones = np.histogram([p.skin_tone for p in people], bins=5, range=(0, 1))[0] / len(people)
    assert np.abs(tones - 0.2).max() < 0.07
    assert np.mean([p.male for p in people]) == pytest.approx(0.5, abs=0.08)
    dark = [sample_person(i, SyntheticFaceConfig(skin_tones=(0.8, 1.0))).skin_tone for i in range(20)]
    assert min(dark) >= 0.8


def test_darker_tones_look_darker():
    person, config = average_person()
    shades = [
        render_person(dataclasses.replace(person, skin_tone=tone), 0, config, pose=(0, 0, 0)) for tone in (0.1, 0.9)
    ]
    light, dark = (sample.image[sample.lapa_labels == 1].mean() for sample in shades)
    assert light > dark + 40


def test_one_person_in_many_views():
    person = sample_person(9)
    config = SyntheticFaceConfig(image_size=96)
    left = render_person(person, 2, config, pose=(-30, 0, 0), centre=(0.4, 0.5), face_size=0.6)
    right = render_person(person, 2, config, pose=(30, 0, 0), centre=(0.6, 0.5), face_size=0.6)
    for name in ("light", "background"):
        assert left.metadata[name] == right.metadata[name]
    assert left.faces[0].pose == (-30, 0, 0) and right.faces[0].person == person
    shift = right.faces[0].landmarks[68].mean(axis=0) - left.faces[0].landmarks[68].mean(axis=0)
    assert 0.1 * 96 < shift[0] < 0.5 * 96
    # Somebody else's seed shows this person too.
    assert render_face_sample(3, config, person=person).faces[-1].person == person


def test_depth_and_normals_on_request():
    sample = render_face_sample(0, SyntheticFaceConfig(image_size=64, depth=True, normals=True))
    face = sample.celebamask_hq_labels == 2
    assert sample.depth.shape == (64, 64) and np.isfinite(sample.depth[face]).all() and np.isinf(sample.depth).any()
    assert sample.normals.shape == (64, 64, 3)
    np.testing.assert_allclose(np.linalg.norm(sample.normals[face], axis=-1), 1, atol=1e-3)
    plain = render_face_sample(0, SyntheticFaceConfig(image_size=64))
    assert plain.depth is None and plain.normals is None


def test_several_faces_do_not_share_their_truth():
    sample = render_face_sample(1, SyntheticFaceConfig(image_size=96, num_faces=(3, 3)))
    assert len(sample.faces) == 3
    heights = [face.box[3] - face.box[1] for face in sample.faces]
    assert len({face.person.seed for face in sample.faces}) == 3 and min(heights) > 5


def test_backgrounds_from_a_folder(tmp_path):
    from PIL import Image

    Image.new("RGB", (40, 30), (255, 0, 255)).save(tmp_path / "a.png")
    (tmp_path / "broken.jpg").write_bytes(b"not a picture")
    config = SyntheticFaceConfig(image_size=48, backgrounds=tmp_path, noise=0, blur=0, jpeg=0)
    with pytest.warns(UserWarning, match=r"Skipped the background .*broken\.jpg.*1 skipped"):
        kinds = [render_face_sample(i, config).metadata["background"] for i in range(16)]
    assert 2 < kinds.count("photo") < 14


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"image_size": 20}, "image_size is 20"),
        ({"num_faces": (2, 9)}, "num_faces"),
        ({"yaw": (10, 120)}, "yaw is"),
        ({"face_size": (0.9, 0.1)}, "face_size is"),
        ({"glasses": 1.2}, "glasses is 1.2"),
        ({"hat": 0.6, "headscarf": 0.6}, "at most 1 together"),
        ({"without": ("legs",)}, "choose among the effects"),
        ({"style": "cubist"}, "style is 'cubist'"),
        ({"backgrounds": "/nowhere"}, "is not a folder"),
        ({"max_captions": 0}, "max_captions"),
        ({"skin_tones": (-1, 1)}, "skin_tones"),
    ],
)
def test_bad_settings(setting, message):
    with pytest.raises(ValueError, match=message):
        SyntheticFaceConfig(**setting)
    assert hash(SyntheticFaceConfig(num_faces=[1, 2])) == hash(SyntheticFaceConfig(num_faces=(1, 2)))
