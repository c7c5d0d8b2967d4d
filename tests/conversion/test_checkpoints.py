"""Conversion of official-format files of tiny size. The full size is in test_golden.py."""

import shutil
import subprocess
import sys
from pathlib import Path

import golden_cases as cases
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, AutoProcessor, CLIPModel, CLIPProcessor

from farl_hf import FaRLConfig, FaRLForPreTraining, FaRLModel, checkpoints
from farl_hf.commands.main import main
from farl_hf.conversion.checkpoints import convert_checkpoint


def official_state_dict(config: FaRLConfig, mim: bool = True, seed: int = 0) -> dict[str, torch.Tensor]:
    """A file of the official layout (farl/network/farl/model.py, CLIP's model.py) with random numbers."""
    generator = torch.Generator().manual_seed(seed)
    vision, text = config.vision_config, config.text_config

    def blocks(prefix: str, width: int, hidden: int, layers: int) -> dict[str, tuple[int, ...]]:
        shapes = {}
        for i in range(layers):
            block = f"{prefix}.resblocks.{i}"
            shapes |= {
                f"{block}.attn.in_proj_weight": (3 * width, width),
                f"{block}.attn.in_proj_bias": (3 * width,),
                f"{block}.attn.out_proj.weight": (width, width),
                f"{block}.attn.out_proj.bias": (width,),
                f"{block}.ln_1.weight": (width,),
                f"{block}.ln_1.bias": (width,),
                f"{block}.ln_2.weight": (width,),
                f"{block}.ln_2.bias": (width,),
                f"{block}.mlp.c_fc.weight": (hidden, width),
                f"{block}.mlp.c_fc.bias": (hidden,),
                f"{block}.mlp.c_proj.weight": (width, hidden),
                f"{block}.mlp.c_proj.bias": (width,),
            }
        return shapes

    width, patch = vision.hidden_size, vision.patch_size
    shapes = {
        "visual.class_embedding": (width,),
        "visual.positional_embedding": ((vision.image_size // patch) ** 2 + 1, width),
        "visual.proj": (width, config.projection_dim),
        "visual.conv1.weight": (width, 3, patch, patch),
        "visual.ln_pre.weight": (width,),
        "visual.ln_pre.bias": (width,),
        "visual.ln_post.weight": (width,),
        "visual.ln_post.bias": (width,),
        "token_embedding.weight": (text.vocab_size, text.hidden_size),
        "positional_embedding": (text.max_position_embeddings, text.hidden_size),
        "ln_final.weight": (text.hidden_size,),
        "ln_final.bias": (text.hidden_size,),
        "text_projection": (text.hidden_size, config.projection_dim),
        "logit_scale": (),
    }
    shapes |= blocks("visual.transformer", width, vision.intermediate_size, vision.num_hidden_layers)
    shapes |= blocks("transformer", text.hidden_size, text.intermediate_size, text.num_hidden_layers)
    if mim:
        shapes |= {
            "visual.mask_token": (width,),
            "visual.ln_lm.weight": (width,),
            "visual.ln_lm.bias": (width,),
            "visual.lm_head.weight": (config.mim_vocab_size, width),
            "visual.lm_head.bias": (config.mim_vocab_size,),
        }
        shapes |= blocks("visual.lm_transformer", width, vision.intermediate_size, config.mim_num_layers)
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


TINY = FaRLConfig.from_preset("tiny")


@pytest.fixture(scope="module")
def tensors():
    return official_state_dict(TINY)


@pytest.fixture(scope="module")
def official(tmp_path_factory, tensors):
    path = tmp_path_factory.mktemp("official") / "FaRL-tiny.pth"
    torch.save({"state_dict": tensors, "epoch": 16}, path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory, official):
    output = tmp_path_factory.mktemp("converted") / "farl-tiny"
    convert_checkpoint(official, output)
    return output


class ReferenceEncoder(nn.Module):
    """CLIP's residual attention blocks on PyTorch's own fused attention, loaded with official names."""

    def __init__(self, tensors: dict, prefix: str, width: int, heads: int, layers: int, causal: bool):
        super().__init__()
        self.causal = causal
        self.blocks = nn.ModuleList()
        for i in range(layers):
            block = nn.ModuleDict(
                {
                    "attn": nn.MultiheadAttention(width, heads, batch_first=True),
                    "ln_1": nn.LayerNorm(width),
                    "ln_2": nn.LayerNorm(width),
                    "mlp": nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)}),
                }
            )
            start = f"{prefix}.resblocks.{i}."
            block.load_state_dict(
                {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}
            )
            self.blocks.append(block)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        length = x.shape[1]
        mask = torch.full((length, length), float("-inf")).triu(1) if self.causal else None
        for block in self.blocks:
            normed = block["ln_1"](x)
            x = x + block["attn"](normed, normed, normed, attn_mask=mask, need_weights=False)[0]
            hidden = block["mlp"]["c_fc"](block["ln_2"](x))
            x = x + block["mlp"]["c_proj"](hidden * torch.sigmoid(1.702 * hidden))
        return x


def test_numbers_of_an_independent_forward(folder, tensors):
    """OpenAI's forward written down again, on the official names."""
    torch.manual_seed(0)
    vision, text = TINY.vision_config, TINY.text_config
    pixel_values = torch.randn(2, 3, 96, 96)
    input_ids = torch.randint(0, 49406, (2, 12))
    input_ids[0, 5:], input_ids[1, 11] = 49407, 49407

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return nn.functional.layer_norm(x, x.shape[-1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"], 1e-5)

    with torch.no_grad():
        encoder = ReferenceEncoder(tensors, "visual.transformer", 128, 4, vision.num_hidden_layers, causal=False)
        x = nn.functional.conv2d(pixel_values, tensors["visual.conv1.weight"], stride=8).flatten(2).transpose(1, 2)
        x = (
            torch.cat([tensors["visual.class_embedding"].expand(2, 1, -1), x], 1)
            + tensors["visual.positional_embedding"]
        )
        image = norm(encoder(norm(x, "visual.ln_pre"))[:, 0], "visual.ln_post") @ tensors["visual.proj"]

        encoder = ReferenceEncoder(tensors, "transformer", 128, 4, text.num_hidden_layers, causal=True)
        x = encoder(tensors["token_embedding.weight"][input_ids] + tensors["positional_embedding"][:12])
        caption = norm(x, "ln_final")[torch.arange(2), input_ids.argmax(1)] @ tensors["text_projection"]

        output = AutoModel.from_pretrained(folder)(input_ids=input_ids, pixel_values=pixel_values)
    assert (nn.functional.normalize(image) - output.image_embeds).abs().max() < 1e-5
    assert (nn.functional.normalize(caption) - output.text_embeds).abs().max() < 1e-5


def test_folder_is_complete(folder):
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "README.md", "processor_config.json", "tokenizer.json"} <= names
    processor = AutoProcessor.from_pretrained(folder)
    assert processor(text=["a face"]).input_ids[0][0] == 49406
    header = (folder / "README.md").read_text().split("---\n")[1]
    assert "license: mit\n" in header


def test_masked_branch_is_kept_and_ignored_quietly(folder, tensors):
    model, report = FaRLForPreTraining.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()) and torch.equal(model.mask_token, tensors["visual.mask_token"])
    assert torch.equal(model.mim_head.weight, tensors["visual.lm_head.weight"])
    _, report = FaRLModel.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())


@pytest.mark.parametrize(
    "variant", ["plain", "module prefix", "fp16", "safetensors", "openai bookkeeping", "legacy zip"]
)
def test_variants_of_the_official_file(tmp_path, variant, folder):
    tensors = official_state_dict(TINY, mim=False)
    path = tmp_path / "file.pth"
    if variant == "module prefix":
        torch.save({"state_dict": {f"module.{name}": value for name, value in tensors.items()}}, path)
    elif variant == "fp16":
        torch.save({"state_dict": {name: value.half() for name, value in tensors.items()}}, path)
    elif variant == "safetensors":
        path = tmp_path / "file.safetensors"
        save_file(tensors, path)
    elif variant == "openai bookkeeping":
        numbers = {"input_resolution": 96, "context_length": 77, "transformer.resblocks.0.attn_mask": 0}
        torch.save({**tensors, **{name: torch.tensor(value) for name, value in numbers.items()}}, path)
    elif variant == "legacy zip":
        torch.save(tensors, path, _use_new_zipfile_serialization=False)
    else:
        torch.save(tensors, path)
    result = convert_checkpoint(path, tmp_path / "out")
    assert result.architecture == "FaRLModel"
    got, want = load_file(tmp_path / "out/model.safetensors"), load_file(folder / "model.safetensors")
    assert got.keys() == {name for name in want if not name.startswith(("mim_", "mask_token"))}
    assert all(value.dtype == torch.float32 for value in got.values())
    tolerance = 1e-3 if variant == "fp16" else 0
    rest = official_state_dict(TINY)  # with the masked branch drawn last, the shared tensors are the same
    assert torch.equal(rest["visual.proj"], tensors["visual.proj"])
    assert all((got[name] - want[name]).abs().max() <= tolerance for name in got)


def test_back_to_clip(tmp_path, folder, tensors):
    convert_checkpoint(folder, tmp_path / "clip", to="clip")
    official = torch.load(tmp_path / "clip/openai_clip.pth", weights_only=True)["state_dict"]
    assert official.keys() == tensors.keys()
    assert all(torch.equal(official[name], tensors[name]) for name in tensors)
    clip, report = CLIPModel.from_pretrained(tmp_path / "clip", output_loading_info=True)
    assert not any(report.values())
    processor = CLIPProcessor.from_pretrained(tmp_path / "clip")
    inputs = processor(text=["a face"], images=torch.rand(3, 120, 100), return_tensors="pt")
    ours = FaRLModel.from_pretrained(folder)(**inputs).logits_per_image
    assert (clip(**inputs).logits_per_image - ours).abs().max() < 1e-6


def test_openai_torchscript_archive(tmp_path, folder):
    """OpenAI's own files are half-precision TorchScript with the mask of the text tower as an attribute."""
    tensors = {name: value.half() for name, value in official_state_dict(TINY, mim=False).items()}
    cases.write_torchscript(
        tmp_path / "ViT-B-16.pt", {**tensors, "transformer.resblocks.0.attn_mask": torch.zeros(77, 77)}
    )
    convert_checkpoint(tmp_path / "ViT-B-16.pt", tmp_path / "out")
    got, want = load_file(tmp_path / "out/model.safetensors"), load_file(folder / "model.safetensors")
    assert max((got[name] - want[name]).abs().max() for name in got) < 1e-3


def test_release_by_name(tmp_path, official, monkeypatch):
    monkeypatch.setattr(checkpoints, "download_release", {"ep64": official}.__getitem__)
    assert convert_checkpoint("ep64", tmp_path / "out").architecture == "FaRLForPreTraining"


def write_bad_file(path, kind: str) -> None:
    tensors = official_state_dict(TINY)
    if kind == "truncated":
        torch.save({"state_dict": tensors}, path)
        path.write_bytes(path.read_bytes()[:100_000])
    elif kind == "web page":
        path.write_bytes(b"<!DOCTYPE html><html><body>Not found</body></html>")
    elif kind == "code":
        torch.save({"state_dict": tensors, "hook": shutil.rmtree}, path)
    elif kind == "size":
        tensors["visual.conv1.weight"] = torch.zeros(200, 3, 8, 8)
        torch.save(tensors, path)
    elif kind == "image tower alone":
        torch.save({name: value for name, value in tensors.items() if name.startswith("visual")}, path)
    elif kind == "no temperature":
        del tensors["logit_scale"]
        torch.save(tensors, path)
    elif kind == "stranger":
        torch.save({**tensors, "visual.surprise": torch.zeros(1)}, path)
    elif kind == "shape":
        torch.save({**tensors, "visual.proj": torch.zeros(128, 64)}, path)
    elif kind == "list":
        torch.save({"state_dict": [torch.zeros(2)]}, path)
    elif kind == "list of a trainer":
        torch.save({"networks": {"main_ema": [torch.zeros(2)]}}, path)
    elif kind == "integer names":
        torch.save({0: torch.zeros(2), 1: torch.zeros(2)}, path)
    elif kind == "something else":
        torch.save({"fc.weight": torch.zeros(2, 2)}, path)


BAD_FILES = {
    "missing": "file.pth",
    "truncated": "cut short",
    "web page": "web page",
    "code": "shutil.rmtree",
    "size": "width 200",
    "image tower alone": "no text tower",
    "no temperature": "1 missing (logit_scale)",
    "stranger": "1 unexpected (visual.surprise)",
    "shape": "visual.proj has shape (64, 128)",
    "list": "list in the place of named tensors",
    "list of a trainer": "list in the place of named tensors",
    "integer names": "no FaRL, CLIP ViT or facer checkpoint",
    "something else": "fc.weight",
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_files_are_named_in_one_sentence(tmp_path, capsys, kind):
    path = tmp_path / "file.pth"
    write_bad_file(path, kind)
    assert main(["convert", str(path), str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1 and BAD_FILES[kind] in message
    assert {entry.name for entry in tmp_path.iterdir()} <= {"file.pth"}, "a failed conversion leaves nothing behind"


def test_existing_output(tmp_path, capsys, official):
    output = tmp_path / "out"
    output.mkdir()
    (output / "mine.txt").write_text("precious")
    assert main(["convert", str(official), str(output)]) == 2
    assert "not empty" in capsys.readouterr().err and (output / "mine.txt").exists()
    # Only what is a model's folder is replaced.
    assert main(["convert", str(official), str(output), "--overwrite"]) == 2
    assert "no model's folder" in capsys.readouterr().err and (output / "mine.txt").exists()
    (output / "mine.txt").unlink()
    assert main(["convert", str(official), str(output)]) == 0
    (output / "old.txt").touch()
    assert main(["convert", str(official), str(output), "--overwrite"]) == 0
    assert (output / "config.json").exists() and not (output / "old.txt").exists()
    # All files can be read by those who can read the first.
    assert len({path.stat().st_mode for path in output.iterdir()}) == 1


@pytest.mark.parametrize("overwrite", [False, True])
def test_folder_that_appears_meanwhile(tmp_path, overwrite):
    def write(folder: Path) -> checkpoints.Conversion:
        (folder / "config.json").touch()
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine.txt").write_text("precious")
        return checkpoints.Conversion(folder, "FaRLModel", 0)

    with pytest.raises(FileExistsError, match="no model's folder" if overwrite else "not empty"):
        checkpoints._write_folder(tmp_path / "out", overwrite, write)
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and (tmp_path / "out/mine.txt").exists()


def test_folder_that_appears_at_the_last_moment(tmp_path, monkeypatch):
    """After the last look, before the new folder is put in place."""

    def check(output: Path, overwrite: bool) -> None:
        output.mkdir()
        (output / "mine.txt").write_text("precious")

    def write(folder: Path) -> checkpoints.Conversion:
        (folder / "config.json").touch()
        return checkpoints.Conversion(folder, "FaRLModel", 0)

    monkeypatch.setattr(checkpoints, "_check_output", check)
    with pytest.raises(FileExistsError, match="filled meanwhile"):
        checkpoints._write_folder(tmp_path / "out", False, write)
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and (tmp_path / "out/mine.txt").exists()


@pytest.mark.parametrize("output", [".", "..", ""])
def test_current_folder_is_not_replaced(tmp_path, official, monkeypatch, output):
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    with pytest.raises(ValueError, match="current folder"):
        convert_checkpoint(official, output)


def test_script_and_help(tmp_path, official):
    script = [sys.executable, "scripts/convert_checkpoint.py"]
    shown = subprocess.run([*script, "--help"], capture_output=True, text=True, check=True).stdout
    assert "ep64" in shown and "--overwrite" in shown
    done = subprocess.run([*script, official, tmp_path / "out"], capture_output=True, text=True, check=True)
    assert "FaRLForPreTraining" in done.stdout and (tmp_path / "out/model.safetensors").exists()
