"""Contact sheets: each shows what it is called."""

from dataclasses import replace

import numpy as np
import pytest
from experiments import sheets
from PIL import Image
from script_cases import load_script
from synthetic_cases import any_person, make_sample, make_samples

from farl_hf.synthetic import EFFECTS


@pytest.fixture
def drawn(monkeypatch):
    """Configurations of what was drawn, poses of persons."""
    calls = {"configs": [], "poses": []}

    def render(seeds, config):
        calls["configs"].append(config)
        return make_samples(seeds, config)

    def render_person(person, seed, config, pose, centre, face_size):
        calls["poses"].append(pose)
        return make_sample(seed, config)

    monkeypatch.setattr(sheets, "render_faces", render)
    monkeypatch.setattr(sheets, "render_face_sample", lambda seed, config: render([seed], config)[0])
    monkeypatch.setattr(sheets, "render_person", render_person)
    monkeypatch.setattr(sheets, "sample_person", lambda seed, config=None: any_person(np.random.default_rng(seed)))
    return calls


def test_every_effect_is_shown_with_and_without(drawn):
    sheet = sheets.effects_sheet(tile=64, candidates=2)
    pairs = list(zip(drawn["configs"][::2], drawn["configs"][1::2], strict=True))
    assert [off.without for _, off in pairs] == [(effect,) for effect in EFFECTS]
    assert all(replace(off, without=()) == on for on, off in pairs)
    assert sheet.width > 5 * 2 * 64 and sheet.height > 4 * 64


def test_people_are_of_all_tones_and_ages(drawn):
    sheets.people_sheet(tile=64)
    settings = {(config.skin_tones, config.ages) for config in drawn["configs"]}
    assert len(settings) == 36 and ((0.0, 0.0), (6, 6)) in settings and ((1.0, 1.0), (80, 80)) in settings


def test_files_are_small(drawn, tmp_path, capsys):
    assert load_script("synthetic_sheets").main([str(tmp_path), "--sheets", "poses", "layouts", "labels"]) == 0
    assert capsys.readouterr().out.count("kB") == 3
    assert {pose[0] for pose in drawn["poses"]} >= {-90.0, 0.0, 90.0}
    for name in ("poses", "layouts", "labels"):
        path = tmp_path / f"synthetic-{name}.jpg"
        assert path.stat().st_size <= 150_000 and Image.open(path).width > 700
    with pytest.raises(ValueError, match="Unknown sheet 'hands': choose among effects, people"):
        sheets.write_sheets(tmp_path, ["hands"])
