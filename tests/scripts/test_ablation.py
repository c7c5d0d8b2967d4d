"""The ablation of the generated faces: crops are right, every net is trained once, the table adds up."""

import json

import numpy as np
import pytest
from experiments import ablation
from experiments.ablation import AblationSizes, ablation_table, make_crops, run_ablation
from script_cases import load_script
from synthetic_cases import make_sample, make_samples

SIZES = AblationSizes(faces=20, test_faces=4, steps=2, batch_size=4, seeds=2)


@pytest.fixture
def drawn(monkeypatch):
    """What was drawn: (style, effects left out, pictures)."""
    calls = []

    def render(seeds, config):
        calls.append((config.style, config.without, len(seeds)))
        return make_samples(seeds, config)

    monkeypatch.setattr(ablation, "render_faces", render)
    return calls


def test_crops_hold_what_is_at_their_points(monkeypatch):
    """The picture's red is y and its green is x; at each point of the crop there is what was in the picture."""

    def ramps(seeds, config):
        samples = make_samples(seeds, config)
        size = config.image_size
        for sample in samples:
            ramp = np.arange(size, dtype=np.uint8)
            sample.image = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], np.uint8(9)), axis=2)
            sample.lapa_labels = np.where(ramp[None] < size // 2, 1, 2).repeat(size, 0).astype(np.uint8)
            sample.faces[-1].landmarks[68] = sample.faces[-1].landmarks[68] * 0.4 + 0.3 * size
        return samples

    monkeypatch.setattr(ablation, "render_faces", ramps)
    crops = make_crops(ablation.FACES, 3, 5, "")
    size = ablation.FACES.image_size
    for i in range(3):
        expected = make_sample(5_000_000 + i, ablation.FACES).faces[-1].landmarks[68] * 0.4 + 0.3 * size
        at = np.floor(crops.points[i].numpy() * 64).astype(int)
        found = crops.pixels[i].numpy()[:2, at[:, 1], at[:, 0]].T[:, ::-1]
        assert np.abs(found - expected).max() < 1.6
        middle = crops.pixels[i, 1].numpy()
        assert (crops.labels[i].numpy()[(middle > 0) & (middle < size // 2 - 2)] == 1).all()
        assert (crops.labels[i].numpy()[middle > size // 2 + 2] == 2).all()


def test_every_net_is_trained_once(drawn, tmp_path, monkeypatch):
    results = run_ablation(tmp_path, SIZES, ["shadows", "hats"])
    assert {(style, without) for style, without, _ in drawn} == {
        ("held_out", ()), ("train", ()), ("train", ("shadows",)), ("train", ("hats",))
    }  # fmt: skip
    assert sum(count for _, _, count in drawn) == 3 * SIZES.faces + SIZES.test_faces
    assert {effect: len(nets) for effect, nets in results["rows"].items()} == {"": 2, "shadows": 2, "hats": 2}
    assert all(net["nme"] > 0 and 0 <= net["f1"] <= 1 for nets in results["rows"].values() for net in nets)
    monkeypatch.setattr(ablation, "train_net", lambda *_: pytest.fail("a net was trained again"))
    assert run_ablation(tmp_path, SIZES, ["shadows", "hats"]) == json.loads((tmp_path / "ablation.json").read_text())
    with pytest.raises(ValueError, match="nets of other sizes"):
        run_ablation(tmp_path, AblationSizes(), ["shadows"])


def test_table():
    nets = {"": [(0.10, 0.50), (0.12, 0.54)], "hair_shapes": [(0.12, 0.40), (0.12, 0.40)]}
    rows = {effect: [{"nme": nme, "f1": f1} for nme, f1 in values] for effect, values in nets.items()}
    table = ablation_table({"sizes": SIZES.__dict__, "rows": rows}).splitlines()
    # Of both rows together the deviation is 1.00 and 2.00.
    assert table[-2] == "| nothing (all effects) | 11.00 ± 1.41 |  | 52.00 ± 2.83 |  |"
    assert table[-1] == "| hair shapes | 12.00 ± 0.00 | +1.00 | 40.00 ± 0.00 | **-12.00** |"
    assert "(1.00 for NME, 2.00 for F1)" in table[1]


def test_a_killed_run_goes_on_with_its_faces(drawn, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(ablation, "train_net", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_ablation(tmp_path, SIZES, ["hats"])
    before = len(drawn)
    run_ablation(tmp_path, SIZES, ["hats"])
    assert {without for _, without, _ in drawn[before:]} == {("hats",)}
    assert not list(tmp_path.glob("*.unfinished"))


def test_command(drawn, tmp_path, capsys):
    command = ["--output_dir", str(tmp_path), "--quick", "--effects", "gaze"]
    assert load_script("ablation").main(command) == 0
    assert "| gaze |" in capsys.readouterr().out
