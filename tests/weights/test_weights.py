"""`farl_hf.pretrained` and the packing of a family of weights."""

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoModel, AutoModelForSemanticSegmentation

import farl_hf
from farl_hf import FaRLConfig, FaRLForFaceParsing, FaRLModel
from farl_hf.models.tokenization import build_clip_tokenizer
from farl_hf.weights import pack_family

VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
VISION |= {"image_size": 16, "patch_size": 4}


@pytest.fixture
def folders(tmp_path):
    """A dual encoder and a parser with its tower, saved whole."""
    fields = {"vision_config": VISION, "head_channels": 8, "neck_channels": 8}
    text = {**VISION, "vocab_size": 600, "bos_token_id": 598, "eos_token_id": 599, "num_hidden_layers": 1}
    del text["image_size"], text["patch_size"]
    dual = FaRLModel(FaRLConfig(text_config=text, projection_dim=8, **fields))
    dual.save_pretrained(tmp_path / "dual")
    build_clip_tokenizer(600).save_pretrained(tmp_path / "dual")
    parser = FaRLForFaceParsing.from_pretrained(tmp_path / "dual", num_labels=3)
    parser.save_pretrained(tmp_path / "parser")
    return {"small": tmp_path / "dual", "small-parsing": tmp_path / "parser"}


@pytest.fixture
def family(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    output = pack_family(folders, tmp_path / "family")
    monkeypatch.setenv("FARL_WEIGHTS", str(output))
    return output


def test_packed_models_come_back_whole(folders, family):
    for name, folder in folders.items():
        kind = AutoModelForSemanticSegmentation if "parsing" in name else AutoModel
        found, expected = (kind.from_pretrained(f).state_dict() for f in (farl_hf.pretrained(name), folder))
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_shared_tensors_are_kept_once(folders, family):
    def size(folder):
        return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))

    tower = sum(
        p.numel() * 4 for p in FaRLForFaceParsing.from_pretrained(folders["small-parsing"]).vision_model.parameters()
    )
    saved = sum(size(folder) for folder in folders.values()) - size(family)
    assert saved > 0.9 * tower


def test_a_folder_is_put_together_once_and_follows_the_weights(folders, family):
    first = farl_hf.pretrained("small")
    assert farl_hf.pretrained("small") == first
    pack_family({**folders, "small": folders["small-parsing"]}, family)
    assert farl_hf.pretrained("small") != first


def test_unknown_names_and_folders_are_refused(family, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"'smal'.*small, small-parsing"):
        farl_hf.pretrained("smal")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(FileExistsError, match="no family"):
        pack_family({}, tmp_path / "other")
    monkeypatch.setenv("FARL_WEIGHTS", str(tmp_path / "other"))
    with pytest.raises(FileNotFoundError, match=r"family\.json"):
        farl_hf.pretrained("small")


def test_a_small_vocabulary_keeps_the_frequent_merges():
    small, full = build_clip_tokenizer(4096), build_clip_tokenizer()
    assert len(small) == 4096
    assert small("the man")["input_ids"][1:-1] == full("the man")["input_ids"][1:-1]
    assert small.decode(small("a woman wearing eyeglasses")["input_ids"], skip_special_tokens=True) == (
        "a woman wearing eyeglasses"
    )
    config = FaRLConfig.from_preset("farl-tiny").text_config
    assert (small.bos_token_id, small.eos_token_id) == (config.bos_token_id, config.eos_token_id)
    with pytest.raises(ValueError, match="514"):
        build_clip_tokenizer(100)
