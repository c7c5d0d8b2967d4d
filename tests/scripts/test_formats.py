"""The table of formats: every exact format scores what the model scores."""

import pytest
import torch
from dataset_cases import make_lapa
from script_cases import load_script

from farl_hf import FaRLConfig, FaRLFaceImageProcessor, FaRLForFaceParsing
from farl_hf.datasets.labels import LAPA_LABELS


@pytest.mark.slow
def test_formats(tmp_path, capsys):
    make_lapa(tmp_path, {"train": 4, "val": 1, "test": 3})
    torch.manual_seed(0)
    names = dict(enumerate(LAPA_LABELS))
    config = FaRLConfig.from_preset("tiny", image_size=64, head_channels=32, neck_channels=32, id2label=names)
    FaRLForFaceParsing(config).save_pretrained(tmp_path / "model")
    FaRLFaceImageProcessor(align="lapa", size=64, warp_factor=0.0).save_pretrained(tmp_path / "model")
    arguments = ["--model", str(tmp_path / "model"), "--dataset", "lapa", "--data_dir", str(tmp_path), "--rounds", "2"]
    assert load_script("formats").main([*arguments, "--markdown", str(tmp_path / "table.md")]) == 0
    lines = (tmp_path / "table.md").read_text().splitlines()[2:]
    scores, differences = ([float(line.split("|")[column]) for line in lines] for column in (5, 6))
    assert len(scores) == 6 and max(scores[:5]) - min(scores[:5]) < 0.01
    assert max(differences[:5]) < 1e-4 < differences[5] < 0.2
    assert "ONNX, int8" in capsys.readouterr().out
