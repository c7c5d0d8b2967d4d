"""
The last stage of farl-tiny's training: captions with the image tower locked (Zhai et al. 2022, "LiT",
arXiv:2111.07991). The joint training can afford few faces per step, and its text tower can get stuck at hair and hats;
with what the tower sees of each face computed once, a new one learns from hundreds per step.
"""

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from torch import nn
from tqdm.auto import tqdm

from farl_hf.finetuning.joint import JointFaRL
from farl_hf.models.modeling_farl import FaRLForPreTraining, image_text_contrastive_loss, unit_length

from .tiny_data import DrawnFaces, JointBatches
from .tiny_training import CAPTIONS_FILE, load_average

CAPTION_PARTS = ("text_model", "text_projection", "visual_projection", "logit_scale")
# Measured on 6,400 crops, 250 steps of 256: AUC of glasses 0.49 with CLIP's start, 0.79 with word vectors five times as
# long; the text tower of the joint training, taken further at CLIP's start, stayed at 0.45 (200 steps of 512).
_WORD_SCALE = 5.0


@dataclass(frozen=True)
class CaptionTraining:
    """
    Settings of the stage.

    Args:
        faces: Augmented crops, each embedded once and kept with its captions.
        steps: Optimizer steps.
        batch_size: Faces per step, each with one of its captions.
        learning_rate: Peak, after a twentieth of the steps; a cosine to zero follows.
        weight_decay: Of the matrices.
        seed: Of crops and batches.
    """

    faces: int = 12_288
    steps: int = 1_200
    batch_size: int = 256
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    seed: int = 0


@torch.no_grad()
def embed_crops(
    joint: JointFaRL, faces: DrawnFaces, settings: CaptionTraining, size: int
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """What the tower sees of augmented crops, (faces, hidden size), and token ids (captions, length) of each."""
    vision = joint.config.vision_config
    # Steps far from those of the joint training: other crops.
    first = 10_000_000
    batches = JointBatches(faces, size, vision.patch_size, joint.config.mim_vocab_size, 32, 0.0, settings.seed)
    seen, captions = [], []
    for step in tqdm(range(first, first + -(-settings.faces // 32)), desc="Embedding crops", mininterval=20):
        batch = batches.batch(step)
        with torch.autocast(next(joint.parameters()).device.type, dtype=torch.bfloat16):
            pixels = batch.pixel_values.to(joint.dual.device)
            seen.append(joint.dual.vision_model(pixels, return_dict=True).pooler_output.float())
        captions += list(batch.input_ids.transpose(0, 1))
    return torch.cat(seen), captions


def match_captions(
    joint: JointFaRL, faces: DrawnFaces, size: int, settings: CaptionTraining = CaptionTraining()
) -> list[float]:
    """
    Trains a new text tower and both projections on what the locked tower sees. Returns the loss of every step.
    """
    joint.eval()
    dual, device = joint.dual, joint.dual.device
    seen, captions = embed_crops(joint, faces, settings, size)
    torch.manual_seed(settings.seed)
    new = FaRLForPreTraining(joint.config).to(device)
    new.text_model.embeddings.token_embedding.weight.data.mul_(_WORD_SCALE)
    for name in CAPTION_PARTS:
        setattr(dual, name, getattr(new, name))
    parameters = [*dual.text_model.parameters(), dual.text_projection.weight, dual.visual_projection.weight]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [*(p for p in parameters if p.ndim == 1), dual.logit_scale], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=settings.steps, pct_start=0.05, cycle_momentum=False
    )
    generator = torch.Generator().manual_seed(settings.seed)
    losses = []
    for _ in tqdm(range(settings.steps), desc="Captions", mininterval=20):
        chosen = torch.randint(len(seen), (min(settings.batch_size, len(seen)),), generator=generator)
        texts = [captions[i][int(torch.randint(len(captions[i]), (), generator=generator))] for i in chosen.tolist()]
        # The padding is the end token, so captions of other batches need no mask.
        ids = nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=faces.tokenizer.eos_token_id)
        longest = int((ids != faces.tokenizer.eos_token_id).sum(dim=1).max()) + 1
        with torch.autocast(device.type, dtype=torch.bfloat16):
            text = dual.get_text_features(ids[:, :longest].to(device), return_dict=True).pooler_output
        image = dual.visual_projection(seen[chosen])
        logits = unit_length(image) @ unit_length(text.float()).T * dual.logit_scale.exp().clamp(max=100)
        loss = image_text_contrastive_loss(logits)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return losses


def train_captions(
    folder: str | Path, faces: DrawnFaces, settings: CaptionTraining = CaptionTraining(), device: str = "cpu"
) -> None:
    """
    The stage for a run's folder: reads the averaged weights there and writes what the stage learnt beside them, for
    [`load_average`], unless that is there already.
    """
    target = Path(folder) / CAPTIONS_FILE
    if target.is_file():
        return
    joint = load_average(folder, faces.attributes).to(device)
    if device == "cpu":
        joint.dual.set_attn_implementation("eager")
    losses = match_captions(joint, faces, joint.config.image_size, settings)
    tenth = max(1, len(losses) // 10)
    means = [fmean(losses[i : i + tenth]) for i in range(0, len(losses), tenth)]
    print("loss of the captions, by tenths:", ", ".join(f"{mean:.2f}" for mean in means), flush=True)
    learnt = {f"dual.{key}": t.cpu() for key, t in joint.dual.state_dict().items() if key.startswith(CAPTION_PARTS)}
    temporary = target.with_suffix(".tmp")
    torch.save(learnt, temporary)
    temporary.replace(target)
