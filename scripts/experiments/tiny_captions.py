"""
The last stage of farl-tiny's training: captions with the image tower locked (Zhai et al. 2022, "LiT",
arXiv:2111.07991). The joint training can afford few faces per step, and of a few a caption's hair and hat tell most
apart; with what the tower sees of each face computed once, a step has hundreds, and small words like "smiling" begin to
count.
"""

from dataclasses import dataclass

import torch
from torch import nn
from tqdm.auto import tqdm

from farl_hf.finetuning.joint import JointFaRL
from farl_hf.models.modeling_farl import image_text_contrastive_loss, unit_length

from .tiny_data import DrawnFaces, JointBatches


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

    faces: int = 16_384
    steps: int = 1_000
    batch_size: int = 512
    learning_rate: float = 1e-3
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
    Trains the text tower and both projections on what the locked tower sees. Returns the loss of every step.
    """
    joint.eval()
    dual, device = joint.dual, joint.dual.device
    seen, captions = embed_crops(joint, faces, settings, size)
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
