"""Folders that version 0.1 wrote open as they did, and give what they gave."""

import json
from pathlib import Path

import pytest
from former_folder_cases import FOLDERS, filled, numbers
from safetensors.torch import save_file
from transformers import AutoImageProcessor

import farl_hf

RECORDED = json.loads((Path(__file__).parents[1] / "golden/folders_0.1.json").read_text())


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_of_version_0_1(tmp_path, name):
    recorded = RECORDED[name]
    for file, content in recorded["files"].items():
        (tmp_path / file).write_text(json.dumps(content))
    save_file(filled(recorded["shapes"]), tmp_path / "model.safetensors", metadata={"format": "pt"})
    model, report = getattr(farl_hf, name).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert numbers(model) == pytest.approx(recorded["numbers"], rel=1e-4, abs=1e-6)
    if "preprocessor_config.json" in recorded["files"]:
        processor = AutoImageProcessor.from_pretrained(tmp_path)
        assert type(processor) is farl_hf.FaRLFaceImageProcessor
        assert (processor.align, processor.size, processor.warp_factor) == ("lapa", 32, 0.8)
