"""
What pre-training learns, and from which of its two losses: the preset `tiny` is pre-trained on generated faces with
both, with the contrastive loss alone (ITC) and with masked image modelling alone (MIM), each for as long and from the
same random weights, and tested on held-out faces.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product
from pathlib import Path
from statistics import fmean
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

from .spread import cells


@dataclass(frozen=True)
class Arm:
    """
    Weights of the two losses, and how many steps are made in the time of one with both, so that all arms train as long.
    """

    itc_weight: float
    mim_weight: float
    speed: float


# Speeds measured on one CPU core, reading of the pictures included: CPU time of 20 steps of 64 was 17.1, 9.5 and 9.0 s.
ARMS = {"ITC + MIM": Arm(1.0, 1.0, 1.0), "ITC": Arm(1.0, 0.0, 1.8), "MIM": Arm(0.0, 1.0, 1.9)}
UNTRAINED = "no training"
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
        steps: Optimizer steps with both losses; arms with one make as many as take that time.
        batch_size: Pictures per step.
        probe_faces: Pictures that the linear probe is fitted on.
        test_faces: Held-out pictures.
        seeds: Trainings of each arm: other first weights, order and masks.
    """

    faces: int = 10_000
    steps: int = 600
    batch_size: int = 64
    probe_faces: int = 1_000
    test_faces: int = 1_000
    seeds: int = 3


def run_learning(output_dir: str | Path, sizes: LearningSizes, arms: list[str] | None = None) -> dict[str, Any]:
    """
    Pre-trains and tests the arms, seed after seed. What is done already is kept; a killed training goes on.

    Args:
        output_dir: For shards, one folder per training, `learning.json` and `learning.md`.
        sizes: How much is done. Another size needs another folder.
        arms: Some of `ARMS`; by default all.

    Returns:
        What `learning.json` holds: `sizes`, and for each arm the scores (fractions) and minutes of each seed.
    """
    output = Path(output_dir)
    shards = output / "shards"
    write_webdataset(shards, sizes.faces, samples_per_shard=500, config=FACES, seed=PRETRAIN_SEED)
    results: dict[str, Any] = {"sizes": asdict(sizes), "arms": {arm: [] for arm in [*(arms or ARMS), UNTRAINED]}}
    for seed, (arm, records) in product(range(sizes.seeds), results["arms"].items()):
        record = output / folder_name(arm, seed) / "learning.json"
        if not record.exists():
            train_and_score(arm, shards, output, sizes, seed)
        records.append(json.loads(record.read_text()))
    (output / "learning.json").write_text(json.dumps(results, indent=2))
    (output / "learning.md").write_text(learning_table(results) + "\n")
    return results


def folder_name(arm: str, seed: int) -> str:
    """Of one training."""
    return f"{arm.replace(' + ', '-').replace(' ', '-').lower()}-{seed}"


def train_and_score(arm: str, shards: Path, output: Path, sizes: LearningSizes, seed: int) -> None:
    """One training from the first weights of its seed, and its scores in `learning.json` of its folder."""
    first, folder = (output / folder_name(name, seed) for name in (UNTRAINED, arm))
    if not (first / "config.json").exists():
        torch.manual_seed(seed)
        # As in farl-tiny, captions see the mean of all patches.
        pooling = {"use_mean_pooling": True}
        FaRLModel(FaRLConfig.from_preset("tiny", image_size=IMAGE_SIZE, vision_config=pooling)).save_pretrained(first)
    start = time.perf_counter()
    if arm != UNTRAINED:
        pretrain_arm(arm, shards, folder, first, sizes, seed)
    minutes = (time.perf_counter() - start) / 60
    (folder / "learning.json").write_text(json.dumps({"minutes": minutes, **score_model(folder, sizes)}, indent=2))


def pretrain_arm(arm: str, shards: Path, folder: Path, first: Path, sizes: LearningSizes, seed: int) -> None:
    """Pre-trains the model `first`; only the losses and the number of steps differ between arms."""
    losses = ARMS[arm]
    steps = round(sizes.steps * losses.speed)
    pretrain(
        PretrainConfig.from_recipe(
            "demo",
            init_from=str(first),
            train_shards=[str(shards / "*.tar")],
            output_dir=str(folder),
            mixed_precision="bf16",
            batch_size=sizes.batch_size,
            max_steps=steps,
            warmup_steps=max(1, steps // 20),
            itc_weight=losses.itc_weight,
            mim_weight=losses.mim_weight,
            num_workers=0,
            logging_steps=20,
            seed=seed,
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
    """Markdown tables: one row per arm, then one row per attribute; bold only what is apart beyond the spread."""
    sizes, arms = results["sizes"], results["arms"]
    minutes = ", ".join(f"{arm} {fmean(r['minutes'] for r in arms[arm]):.1f}" for arm in arms if arm in ARMS)
    lines = [
        f"The preset tiny from random weights at {IMAGE_SIZE} px, {sizes['steps']:,} steps of {sizes['batch_size']} "
        f"with both losses and as many with one as take as long, on {sizes['faces']:,} generated faces "
        f"({sizes['seeds']} seeds; mean minutes: {minutes}); tested on {sizes['test_faces']:,} held-out ones.",
        "",
        "| losses | zero-shot accuracy | zero-shot AUC | caption in top 1 | in top 10 | linear probe AUC |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    columns: list[Callable[[dict], float | None]] = [
        lambda record: record.get("accuracy", {}).get("mean"),
        lambda record: record.get("auc", {}).get("mean"),
        lambda record: record.get("recall_at_1"),
        lambda record: record.get("recall_at_10"),
        lambda record: record["probe_auc"]["mean"],
    ]
    table = [cells([_known(records, column) for records in arms.values()], digits=3) for column in columns]
    for i, arm in enumerate(arms):
        lines.append(f"| {arm} | {' | '.join(column[i] for column in table)} |")
    chance = [0.5, 0.5, 1 / sizes["test_faces"], 10 / sizes["test_faces"], 0.5]
    lines.append(f"| chance | {' | '.join(f'{value:.3f}' for value in chance)} |")
    tested = [arm for arm, records in arms.items() if "auc" in records[0]]
    lines += ["", f"| zero-shot AUC | {' | '.join(tested)} |", "| --- " * (len(tested) + 1) + "|"]
    for attribute in PROMPTS:
        groups = [[record["auc"][attribute] for record in arms[arm]] for arm in tested]
        lines.append(f"| {attribute} | {' | '.join(cells(groups, digits=2))} |")
    return "\n".join(lines)


def _known(records: list[dict], column: Callable[[dict], float | None]) -> list[float]:
    """Without a contrastive loss the two embeddings have nothing to do with each other: no score."""
    return [value for record in records if (value := column(record)) is not None]
