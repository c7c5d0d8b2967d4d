"""
What pre-training learns, and from which of its two losses: the same tiny FaRL is pre-trained on generated faces with
both, with the contrastive loss alone (ITC) and with masked image modelling alone (MIM), and tested on held-out faces.
"""

import json
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import CLIPTokenizer

from farl_hf.models.configuration_farl import FaRLConfig
from farl_hf.models.modeling_farl import FaRLModel
from farl_hf.pretraining.configuration import PretrainConfig
from farl_hf.pretraining.loop import pretrain
from farl_hf.pretraining.objective import clip_normalised, scaled_pixels
from farl_hf.synthetic import SyntheticFaceConfig, SyntheticFaces, write_webdataset

# Weights of the two losses.
ARMS = {"ITC + MIM": (1.0, 1.0), "ITC": (1.0, 0.0), "MIM": (0.0, 1.0)}
# Seeds of the generator: no picture is in two of these sets.
PRETRAIN_SEED, PROBE_SEED, TEST_SEED = 11, 12, 13
# A face fills most of these pictures, as in LAION-Face's crops, so that 64 pixels show its attributes.
IMAGE_SIZE = 64
FACES = SyntheticFaceConfig(image_size=IMAGE_SIZE, face_size=(0.6, 0.8), yaw=(15, 45), pitch=(8, 25), roll=(7, 20))

_NOUNS = ("young man", "young woman", "old man", "old woman")
# Attribute -> captions if it holds, captions if not; the features of each list are averaged, as CLIP's prompts.
PROMPTS: dict[str, tuple[list[str], list[str]]] = {
    "Male": (["a young man", "an old man"], ["a young woman", "an old woman"]),
    "Young": (["a young man", "a young woman"], ["an old man", "an old woman"]),
    "Smiling": ([f"a smiling {noun}" for noun in _NOUNS], [f"a serious {noun}" for noun in _NOUNS]),
    "Eyeglasses": ([f"a {noun} wearing glasses" for noun in _NOUNS], [f"a {noun}" for noun in _NOUNS]),
    "Wearing_Hat": ([f"a {noun} wearing a hat" for noun in _NOUNS], [f"a {noun}" for noun in _NOUNS]),
    "Bald": ([f"a {noun} with a bald head" for noun in _NOUNS], [f"a {noun} with brown hair" for noun in _NOUNS]),
    "Bangs": ([f"a {noun} with bangs" for noun in _NOUNS], [f"a {noun}" for noun in _NOUNS]),
    "Black_Hair": ([f"a {noun} with black hair" for noun in _NOUNS], [f"a {noun}" for noun in _NOUNS]),
    "Blond_Hair": ([f"a {noun} with blond hair" for noun in _NOUNS], [f"a {noun}" for noun in _NOUNS]),
    "Gray_Hair": ([f"a {noun} with grey hair" for noun in _NOUNS], [f"a {noun}" for noun in _NOUNS]),
    "Wearing_Lipstick": ([f"a {noun} wearing red lipstick" for noun in _NOUNS], [f"a {noun}" for noun in _NOUNS]),
    "Wearing_Earrings": ([f"a {noun} wearing earrings" for noun in _NOUNS], [f"a {noun}" for noun in _NOUNS]),
}


@dataclass(frozen=True)
class LearningSizes:
    """
    How much is done.

    Args:
        faces: Generated pictures to pre-train on.
        steps: Optimizer steps of each arm.
        batch_size: Pictures per step.
        probe_faces: Pictures that the linear probe is fitted on.
        test_faces: Held-out pictures.
    """

    faces: int = 20_000
    steps: int = 2_000
    batch_size: int = 64
    probe_faces: int = 2_000
    test_faces: int = 1_000


def run_learning(output_dir: str | Path, sizes: LearningSizes, arms: list[str] | None = None) -> dict[str, Any]:
    """
    Pre-trains and tests the arms, one after another. What is done already is kept; a killed arm goes on.

    Args:
        output_dir: For shards, one folder per arm, `learning.json` and `learning.md`.
        sizes: How much is done. Another size needs another folder.
        arms: Some of `ARMS`; by default all.

    Returns:
        What `learning.json` holds: `sizes`, and for each arm its scores (fractions) and minutes.
    """
    output = Path(output_dir)
    shards = output / "shards"
    write_webdataset(shards, sizes.faces, samples_per_shard=500, config=FACES, seed=PRETRAIN_SEED)
    results: dict[str, Any] = {"sizes": asdict(sizes), "arms": {}}
    for arm in arms or list(ARMS):
        folder = output / arm.replace(" + ", "-").lower()
        record = folder / "learning.json"
        if not record.exists():
            start = time.perf_counter()
            pretrain_arm(arm, shards, folder, sizes)
            minutes = (time.perf_counter() - start) / 60
            record.write_text(json.dumps({"minutes": minutes, **score_model(folder, sizes)}, indent=2))
        results["arms"][arm] = json.loads(record.read_text())
    untrained = output / "untrained"
    if not untrained.exists():
        torch.manual_seed(0)
        FaRLModel(FaRLConfig.from_preset("tiny", image_size=IMAGE_SIZE)).save_pretrained(untrained)
    results["arms"]["no training"] = score_model(untrained, sizes)
    (output / "learning.json").write_text(json.dumps(results, indent=2))
    (output / "learning.md").write_text(learning_table(results) + "\n")
    return results


def pretrain_arm(arm: str, shards: Path, folder: Path, sizes: LearningSizes) -> None:
    """Pre-trains a tiny FaRL with the losses of an arm; only these differ between arms."""
    itc_weight, mim_weight = ARMS[arm]
    pretrain(
        PretrainConfig.from_recipe(
            "demo",
            train_shards=[str(shards / "*.tar")],
            output_dir=str(folder),
            image_size=IMAGE_SIZE,
            batch_size=sizes.batch_size,
            max_steps=sizes.steps,
            warmup_steps=max(1, sizes.steps // 20),
            itc_weight=itc_weight,
            mim_weight=mim_weight,
            num_workers=0,
            logging_steps=20,
        )
    )


@torch.no_grad()
def score_model(folder: Path, sizes: LearningSizes) -> dict[str, Any]:
    """
    Scores of a pre-trained folder on held-out faces.

    Returns:
        `accuracy` and `auc` of zero-shot attributes, `probe_auc` of a linear probe on the mean of the last patch tokens
        (each by attribute, and `mean`), and `recall_at_1` and `recall_at_10` of a picture's own caption among all.
        `accuracy` is the mean of those on faces with and without the attribute, so chance is 0.5, as for AUC.
    """
    model = FaRLModel.from_pretrained(folder).eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder) if (folder / "tokenizer.json").exists() else None
    train_tokens, _, train_truth, _ = embed_faces(model, PROBE_SEED, sizes.probe_faces)
    tokens, embeds, truth, captions = embed_faces(model, TEST_SEED, sizes.test_faces)
    scores: dict[str, Any] = {"probe_auc": {}}
    for name in PROMPTS:
        weights = ridge_regression(train_tokens, train_truth[name])
        scores["probe_auc"][name] = area_under_curve(tokens @ weights[:-1] + weights[-1], truth[name])
    if tokenizer is not None:
        scores |= {"accuracy": {}, "auc": {}}
        for name, prompts in PROMPTS.items():
            present, absent = (embed_texts(model, tokenizer, texts).mean(dim=0) for texts in prompts)
            margin = embeds @ (present / present.norm() - absent / absent.norm())
            scores["auc"][name] = area_under_curve(margin, truth[name])
            hits = (margin > 0) == truth[name]
            scores["accuracy"][name] = float((hits[truth[name]].float().mean() + hits[~truth[name]].float().mean()) / 2)
        similarity = embeds @ embed_texts(model, tokenizer, captions).T
        # Captions repeat; a picture's own one ranks below those that are more similar.
        rank = (similarity > similarity.diagonal()[:, None]).sum(dim=1)
        scores |= {f"recall_at_{k}": float((rank < k).float().mean()) for k in (1, 10)}
    for values in [value for value in scores.values() if isinstance(value, dict)]:
        values["mean"] = float(np.mean(list(values.values())))
    return scores


def embed_faces(
    model: FaRLModel, seed: int, count: int, batch_size: int = 100
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor], list[str]]:
    """
    Generated faces through the image tower: means of the last patch tokens (count, hidden size), normalised embeddings
    (count, projection size), for each attribute a (count,) bool tensor, and the first captions.
    """
    images, truth, captions = held_out_faces(seed, count)
    tokens, embeds = [], []
    for part in images.split(batch_size):
        outputs = model.vision_model(pixel_values=clip_normalised(scaled_pixels(part)))
        tokens.append(outputs.last_hidden_state[:, 1:].mean(dim=1))
        embeds.append(torch.nn.functional.normalize(model.visual_projection(outputs.pooler_output), dim=-1))
    return torch.cat(tokens), torch.cat(embeds), truth, captions


@cache
def held_out_faces(seed: int, count: int) -> tuple[torch.Tensor, dict[str, torch.Tensor], list[str]]:
    """Images (count, height, width, 3) uint8, for each attribute a (count,) bool tensor, and the first captions."""
    samples = list(tqdm(SyntheticFaces(count, FACES, seed=seed), desc="Held-out faces", leave=False))
    truth = {name: torch.tensor([bool(s.faces[0].attributes[name]) for s in samples]) for name in PROMPTS}
    images = torch.from_numpy(np.stack([sample.image for sample in samples]))
    return images, truth, [sample.captions[0] for sample in samples]


def embed_texts(model: FaRLModel, tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Normalised embeddings (texts, projection size)."""
    outputs = model.text_model(**tokenizer(texts, padding=True, return_tensors="pt"))
    return torch.nn.functional.normalize(model.text_projection(outputs.pooler_output), dim=-1)


def ridge_regression(features: torch.Tensor, truth: torch.Tensor, penalty: float = 1.0) -> torch.Tensor:
    """
    Least squares of +-1 on standardised features with a penalty on the weights: (features + 1,) with the constant last,
    for the features as they are.
    """
    mean, std = features.mean(dim=0), features.std(dim=0).clamp(min=1e-6)
    x = ((features - mean) / std).double()
    y = truth.double() * 2 - 1
    weights = torch.linalg.solve(x.T @ x + penalty * torch.eye(x.shape[1], dtype=x.dtype), x.T @ (y - y.mean()))
    weights = weights.float() / std
    return torch.cat([weights, (y.mean().float() - mean @ weights)[None]])


def area_under_curve(scores: torch.Tensor, truth: torch.Tensor) -> float:
    """Probability that a positive scores above a negative (ties count half); NaN without one of either kind."""
    positive, negative = scores[truth], scores[~truth]
    if len(positive) == 0 or len(negative) == 0:
        return float("nan")
    above = (positive[:, None] > negative).double().mean() + (positive[:, None] == negative).double().mean() / 2
    return float(above)


def learning_table(results: dict[str, Any]) -> str:
    """Markdown tables: one row per arm, then one row per attribute."""
    sizes, arms = results["sizes"], results["arms"]
    minutes = ", ".join(f"{name} {arm['minutes']:.0f}" for name, arm in arms.items() if "minutes" in arm)
    lines = [
        f"Tiny FaRL at {IMAGE_SIZE} px, {sizes['steps']:,} steps of {sizes['batch_size']} on {sizes['faces']:,} "
        f"generated faces (minutes: {minutes}); tested on {sizes['test_faces']:,} held-out ones.",
        "",
        "| losses | zero-shot accuracy | zero-shot AUC | caption in top 1 | in top 10 | linear probe AUC |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, arm in arms.items():
        values = [arm.get("accuracy", {}).get("mean"), arm.get("auc", {}).get("mean")]
        # Without a contrastive loss the two embeddings have nothing to do with each other.
        values += [arm.get("recall_at_1"), arm.get("recall_at_10"), arm["probe_auc"]["mean"]]
        lines.append(f"| {name} | {' | '.join(_number(value) for value in values)} |")
    chance = [0.5, 0.5, 1 / sizes["test_faces"], 10 / sizes["test_faces"], 0.5]
    lines.append(f"| chance | {' | '.join(_number(value) for value in chance)} |")
    tested = [name for name, arm in arms.items() if "auc" in arm]
    lines += ["", f"| zero-shot AUC | {' | '.join(tested)} |", "| --- " * (len(tested) + 1) + "|"]
    for attribute in PROMPTS:
        lines.append(f"| {attribute} | {' | '.join(_number(arms[arm]['auc'][attribute]) for arm in tested)} |")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
