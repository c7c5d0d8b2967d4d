"""The generator of three-dimensional faces: what is drawn, and that its truth agrees with the picture."""

import dataclasses

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

pytest.importorskip("anny", reason="needs farl_hf[synthetic]")
pytest.importorskip("warp", reason="needs farl_hf[synthetic]")

from farl_hf.datasets.flips import flip_permutation
from farl_hf.datasets.labels import CELEBAMASK_HQ_LABELS
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
ALL_POSES = dataclasses.replace(CLEAR, yaw=(45, 90), pitch=(15, 45))


def average_person():
    config = dataclasses.replace(CLEAR, without=(*PLAIN, "shape_variety", "expressions", "gaze", "perspective"))
    person = dataclasses.replace(sample_person(1, config), hair_style="bald", shape={}, details={})
    return person, config


def test_points_are_spaced_as_people_set_them():
    """Distances from the middle line in those of the outer eye corners: dlib's mean face of annotated photos."""
    person, config = average_person()
    points = render_person(person, 0, config, pose=(0, 0, 0), centre=(0.5, 0.5)).faces[0].landmarks[68]
    middle, span = points[[36, 45]].mean(axis=0), points[45, 0] - points[36, 0]
    across, down = np.moveaxis((points - middle) / span, -1, 0)
    brow = np.array([0.665, 0.563, 0.419, 0.271, 0.131])
    assert np.abs(across[22:27] - brow[::-1]).max() < 0.025 and np.abs(across[17:22] + brow).max() < 0.025
    # Lips: the second points of the inner edges, and the lower lip's outer ones.
    assert np.abs(np.abs(across[[61, 63, 65, 67]]) - 0.084).max() < 0.015
    assert (
        np.abs(np.abs(across[[55, 59]]) - 0.206).max() < 0.035 and np.abs(np.abs(across[[56, 58]]) - 0.09).max() < 0.02
    )
    # The corners of a mouth lie beside each other, the jaw begins a little below the eyes.
    assert np.abs(down[[48, 54]] - down[[60, 64]]).max() < 0.03
    assert 0 < down[0] < 0.09 and 0 < down[16] < 0.09


@pytest.mark.parametrize("layout", [68, 98, 106, 19, 5])
def test_all_points_of_a_closed_calm_face_are_seen(layout):
    person, config = average_person()
    face = render_person(person, 0, config, pose=(0, 0, 0), centre=(0.5, 0.5)).faces[0]
    assert face.visibility[layout].all(), np.nonzero(~face.visibility[layout])[0]
    turned = render_person(person, 0, config, pose=(70, 0, 0), centre=(0.5, 0.5)).faces[0]
    assert layout == 5 or not turned.visibility[layout].all()


@pytest.mark.parametrize("layout", [68, 98, 106, 19, 5])
def test_the_neutral_face_is_its_own_mirror_image(layout):
    person, config = average_person()
    face = render_person(person, 0, config, pose=(0, 0, 0), centre=(0.5, 0.5)).faces[0]
    points = face.landmarks[layout]
    permutation = [1, 0, 2, 4, 3] if layout == 5 else flip_permutation(layout)
    mirrored = points * [-1, 1] + [config.image_size - 1, 0]
    assert points.shape == (layout, 2) and points.dtype == np.float32
    np.testing.assert_allclose(mirrored[permutation], points, atol=0.15)


def test_closed_eyes_of_which_little_is_seen_have_points():
    """The lids of this one's right eye are nowhere seen next to each other."""
    config = SyntheticFaceConfig(image_size=96, face_size=(0.45, 0.7))
    face = render_face_sample(21_000_298, config).faces[0]
    assert all(np.isfinite(points).all() for points in face.landmarks.values())
    assert np.ptp(face.landmarks[68][36:42, 0]) > 4


@pytest.mark.parametrize("seed", [76_000_023, 76_000_068, 76_000_146])
def test_nearly_closed_eyes_keep_their_width(seed):
    """Seen from the front; lids that cross each other hide most of the gap between them."""
    points = render_face_sample(seed, SyntheticFaceConfig(image_size=64, face_size=(0.44, 0.6))).faces[0].landmarks[68]
    widths = np.linalg.norm(points[[36, 42]] - points[[39, 45]], axis=1)
    assert widths.min() > 0.2 * np.linalg.norm(points[36] - points[45])


def test_attributes_are_what_is_seen():
    """Big noses are wider, big lips thicker than others, in the units of the eyes' distance."""
    sizes = {"Big_Nose": [[], []], "Big_Lips": [[], []]}
    for sample in render_faces(range(40), SyntheticFaceConfig(image_size=64)):
        face = sample.faces[0]
        points = face.landmarks[68]
        if abs(face.pose[0]) > 20:
            continue
        for name, (a, b) in {"Big_Nose": (31, 35), "Big_Lips": (51, 57)}.items():
            inner = np.linalg.norm(points[62] - points[66]) if name == "Big_Lips" else 0
            size = (np.linalg.norm(points[a] - points[b]) - inner) / np.linalg.norm(points[36] - points[45])
            sizes[name][face.attributes[name]].append(size)
    for small, big in sizes.values():
        assert len(big) > 2 and np.mean(big) > 1.2 * np.mean(small)


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
    found = {name: [] for name in ("brows", "lips", "eyes", "nose's ridge", "nose's base", "far jaw", "near jaw")}
    for seed in seeds:
        sample = render_face_sample(seed, config)
        labels, face = sample.celebamask_hq_labels, sample.faces[-1]
        points, visible = face.landmarks[98], face.visibility[98]
        assert np.isfinite(points).all(), seed

        def add(name, indices, field, points=points, visible=visible):
            found[name] += [_at(field, points[i : i + 1])[0] for i in indices if visible[i]]

        for first, name in ((33, 6), (42, 7)):
            if (labels == name).sum() > 30:
                add("brows", range(first, first + 9), distance_transform_edt(labels != name))
        if (lips := np.isin(labels, (11, 12, 13))).sum() > 30:
            add("lips", range(76, 88), _border(lips))
        for first, name in ((60, 8), (68, 9)):
            if (labels == name).sum() > 30:
                add("eyes", range(first, first + 8), _border(labels == name))
        if (labels == 10).sum() > 30:
            add("nose's ridge", range(51, 55), distance_transform_edt(labels != 10))
            add("nose's base", range(55, 60), _border(labels == 10))
        border, yaw = _border(np.isin(labels, (2, *range(6, 14)))), face.pose[0]
        for i in range(33):
            x, y = np.round(points[i]).astype(int)
            # Hair that hangs over the outline moves the border, and ears end the cheek.
            near = labels[max(y - 4, 0) : y + 5, max(x - 4, 0) : x + 5]
            if 4 <= x < 220 and 4 <= y < 220 and not np.isin(near, (14, 4, 5)).any():
                turned_away = i < 16 if yaw < 0 else i > 16
                if turned_away or abs(yaw) < 20:
                    add("far jaw", [i], border)
                elif 6 < i < 26:  # above begins the lobe of the ear
                    add("near jaw", [i], border)
    return {name: np.array(values) for name, values in found.items()}


def _check_agreement(found):
    print({name: (len(v), round((v <= 1.5).mean(), 4), round((v <= 2.5).mean(), 4)) for name, v in found.items()})
    assert all(len(values) for values in found.values())
    # The rest: points close to what hides them, and cheeks in the round.
    for values in found.values():
        assert (values <= 1.5).mean() > 0.97 and np.median(values) < 1


def test_a_lid_whose_middle_column_is_not_seen_has_a_border():
    config = SyntheticFaceConfig(image_size=144, face_size=(0.44, 0.6))
    for points in render_face_sample(71_003_115, config).faces[-1].landmarks.values():
        assert np.isfinite(points).all()


def test_landmarks_agree_with_label_maps():
    _check_agreement(_disagreements(range(40, 52), ALL_POSES))


@pytest.mark.slow
def test_landmarks_agree_with_label_maps_in_500_pictures():
    _check_agreement(_disagreements(range(1000, 1500), ALL_POSES))


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
    counts, tones = np.zeros(19, dtype=int), []
    for start in range(3_000_000, 3_001_000, 50):
        for sample in render_faces(range(start, start + 50), SyntheticFaceConfig(image_size=96)):
            counts[np.unique(sample.celebamask_hq_labels)] += 1
            tones.append(sample.faces[-1].person.skin_tone)
    print(dict(zip(CELEBAMASK_HQ_LABELS, counts.tolist(), strict=True)), np.histogram(tones, bins=10, range=(0, 1))[0])
    worn = [15, 16, 17, 18]  # glasses, hats, earrings, necklaces
    assert counts[worn].min() >= 100 and np.delete(counts, worn).min() >= 300
    # Even by default: a tenth of the people in each tenth of the tones, within four standard deviations.
    assert np.abs(np.histogram(tones, bins=10, range=(0, 1))[0] - 100).max() <= 38


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
        image_size=64, depth_of_field=1, blur=1, noise=1, grey=1, jpeg=1, occluder=1, beard=1, male=1, glasses=0.9,
        hat=0.9, earrings=1, necklace=1, face_size=(0.6, 0.7),
    )  # fmt: skip
    without = dataclasses.replace(always, without=(effect,))
    assert any(
        not np.array_equal(render_face_sample(seed, always).image, render_face_sample(seed, without).image)
        for seed in range(3)
    )


def test_depth_of_field_blurs_what_is_far_and_moves_no_label():
    sharp, wide = (SyntheticFaceConfig(image_size=96, depth_of_field=p, blur=0, noise=0, jpeg=0) for p in (0, 1))
    one, other = render_face_sample(12, sharp), render_face_sample(12, wide)
    np.testing.assert_array_equal(one.celebamask_hq_labels, other.celebamask_hq_labels)
    back = one.celebamask_hq_labels == 0
    roughness = [
        np.abs(np.diff(sample.image.astype(float), axis=1)).mean(axis=-1)[back[:, 1:] & back[:, :-1]].mean()
        for sample in (one, other)
    ]
    assert roughness[1] < 0.8 * roughness[0] and other.metadata["camera"]["aperture"] > 0
    eyes = np.isin(one.celebamask_hq_labels, (6, 7, 8, 9))
    assert np.abs(one.image[eyes].astype(int) - other.image[eyes]).mean() < 3


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


def test_bags_and_blushes_are_faint_or_clear():
    """Nobody is in between, so that what the attribute says can be seen; a clear one darkens or reddens its place."""
    people = [sample_person(i) for i in range(200)]
    for values in ([p.blush for p in people], [p.details["dark_circles"] for p in people]):
        clear = np.array(values) >= 0.75
        assert 0.15 < clear.mean() < 0.35 and np.array(values)[~clear].max() <= 0.3
    person, config = average_person()
    person = dataclasses.replace(person, skin_tone=0.2)
    plain, bags, rosy = (
        render_person(
            dataclasses.replace(person, blush=blush, details={"dark_circles": dark}), 0, config, pose=(0, 0, 0)
        )
        for blush, dark in ((0.0, 0.0), (0.0, 0.85), (0.85, 0.0))
    )
    for sample, name in ((bags, "Bags_Under_Eyes"), (rosy, "Rosy_Cheeks")):
        assert sample.faces[0].attributes[name] and not plain.faces[0].attributes[name]
    points = plain.faces[0].landmarks[68]
    x, y = np.round(points[36:42].mean(axis=0) + np.array([0, 9])).astype(int)
    under = [sample.image[y - 2 : y + 3, x - 4 : x + 5].mean() for sample in (plain, bags)]
    assert under[1] < 0.8 * under[0]
    x, y = np.round((points[36:42].mean(axis=0) + points[48]) / 2).astype(int)
    cheeks = [sample.image[y - 4 : y + 5, x - 6 : x + 7].mean(axis=(0, 1)) for sample in (plain, rosy)]
    redness = [cheek[0] / cheek[1] for cheek in cheeks]
    assert redness[1] > 1.05 * redness[0]


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


def test_triangles_without_the_tree(monkeypatch):
    """What the CPU finds by going over all triangles is what the tree says that rays meet, to the last bit."""
    import warp

    from farl_hf.synthetic import kernels
    from farl_hf.synthetic.renderer import device

    if device() != "cpu":
        pytest.skip("a GPU always asks the tree")
    configs = [SyntheticFaceConfig(image_size=72, hat=0.5, num_faces=(1, 3), depth=True), ALL_POSES]
    configs[1] = dataclasses.replace(configs[1], image_size=72, face_size=(0.9, 1.0), depth=True)
    found = [render_faces(range(3), config) for config in configs]
    launch, asked = warp.launch, []

    def launch_without(kernel, *args, **kwargs):
        if kernel is not kernels.find_triangles:
            return launch(kernel, *args, **kwargs)
        asked.append(kernel)
        kwargs["inputs"][-1].fill_(kernels.UNKNOWN)

    monkeypatch.setattr(warp, "launch", launch_without)
    for config, samples in zip(configs, found, strict=True):
        for sample, other in zip(samples, render_faces(range(3), config), strict=True):
            assert np.array_equal(sample.image, other.image) and np.array_equal(sample.depth, other.depth)
    assert asked


def test_kernels_compile_for_cuda(tmp_path):
    """Needs no GPU: the compiler comes with warp."""
    import warp

    from farl_hf.synthetic import kernels

    if warp.get_cuda_toolkit_version() is None:
        pytest.skip("warp is built without CUDA")
    warp.compile_aot_module(kernels, arch=80, module_dir=str(tmp_path), use_ptx=True)
    assert any(".entry cast_rays" in path.read_text() for path in tmp_path.glob("*.ptx"))
