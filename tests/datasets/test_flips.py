import numpy as np
import pytest

from farl_hf.datasets.flips import flip_permutation
from farl_hf.datasets.labels import CELEBAMASK_HQ_LABELS, LAPA_LABELS
from farl_hf.synthetic import SyntheticFaceConfig, render_person, sample_person


@pytest.mark.parametrize("points", [68, 98, 106, 19])
def test_mirrored_faces_match_the_table(points):
    """The average head that looks into the camera is symmetric: mirrored, each point falls on its partner."""
    config = SyntheticFaceConfig(image_size=64, without=("shape_variety", "expressions", "gaze"))
    sample = render_person(sample_person(0, config), config=config, pose=(0, 0, 0), centre=(0.5, 0.5), face_size=0.7)
    layout = sample.faces[0].landmarks[points].astype(np.float64)
    centred = layout - layout.mean(axis=0)
    mirrored = centred * [-1, 1]
    distances = np.linalg.norm(mirrored[:, None] - centred[None], axis=2)
    permutation = flip_permutation(points)
    # In units of a pixel: pupils and eye centres of LaPa's layout nearly coincide.
    assert all(distances[i, permutation[i]] < distances[i].min() + 0.2 for i in range(points))
    assert [permutation[i] for i in permutation] == list(range(points))


@pytest.mark.parametrize("name, labels", [("lapa", LAPA_LABELS), ("celebamask_hq", CELEBAMASK_HQ_LABELS)])
def test_class_ids_swap_left_and_right(name, labels):
    def swap(label: str) -> str:
        side, _, part = label.partition(" ")
        return {"left": f"right {part}", "right": f"left {part}"}.get(side, label)

    assert [labels[i] for i in flip_permutation(name)] == [swap(label) for label in labels]
    with pytest.raises(ValueError, match="No flip table for 5"):
        flip_permutation(5)
