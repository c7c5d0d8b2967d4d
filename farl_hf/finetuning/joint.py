"""
One tower that learns everything at once from generated faces: captions, masked patches, two sets of label maps, two
layouts of landmarks and attributes. It is cheaper than one fine-tune per task (the tower is most of a small model), and
its parts come apart into ordinary models that share their tower to the last bit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from torch import nn

from ..datasets.labels import CELEBAMASK_HQ_LABELS, LAPA_LABELS
from ..metrics.landmarks import OUTER_EYE_CORNERS
from ..models.configuration_farl import FaRLConfig
from ..models.geometry_farl import landmarks_from_heatmaps, target_heatmaps
from ..models.image_processing_farl import FaRLFaceImageProcessor
from ..models.modeling_farl import (
    FaRLForFaceAlignment,
    FaRLForFaceParsing,
    FaRLForImageClassification,
    FaRLForPreTraining,
    FaRLPreTrainedModel,
    image_text_contrastive_loss,
    resize_bilinear,
    tokens_to_map,
    unit_length,
)
from ..models.tokenization import build_processor

_LABEL_SETS, _LAYOUTS = ("lapa", "celebamask_hq"), (68, 98)
# Of the crop's side: eyes in full profile are not nearer to each other than this in the loss.
_LEAST_UNIT = 0.1


def _consecutive(counts: Mapping[str | int, int]) -> dict[str | int, slice]:
    ends = list(accumulate(counts.values()))
    return {name: slice(end - counts[name], end) for name, end in zip(counts, ends, strict=True)}


# Label set or layout of landmarks -> its rows of the dense head's last layer.
_ROWS = _consecutive(
    {"lapa": len(LAPA_LABELS), "celebamask_hq": len(CELEBAMASK_HQ_LABELS), **{layout: layout for layout in _LAYOUTS}}
)


@dataclass(frozen=True)
class JointLossWeights:
    """
    What each loss counts. `dice` is the share of F1 that is missed, without which small parts are learnt last; the
    original has none. Those of the landmarks are small numbers, and what is measured there is what users ask for.
    """

    itc: float = 1.0
    contrary: float = 1.0
    mim: float = 0.1
    parsing: float = 2.0
    dice: float = 4.0
    alignment: float = 40.0
    attributes: float = 4.0


@dataclass
class JointBatch:
    """
    Faces with their truth.

    Attributes:
        pixel_values: (batch, 3, size, size) CLIP-normalised.
        input_ids: (captions, batch, length): so many captions of each face, padded on the right.
        contrary_ids: (2, pairs, length): captions that hold, and the same ones with one word that does not.
        contrary_rows: (pairs,) int64: whose they are.
        lapa_labels, celebamask_hq_labels: (batch, size, size) int64.
        landmarks: Layout size -> (batch, points, 2), normalised as `(pixel + 0.5) / size`.
        attributes: (batch, attributes) of 0 and 1.
        bool_masked_pos, mim_targets: (masked rows, patches) of the first rows, which are those that are masked.
    """

    pixel_values: torch.Tensor
    input_ids: torch.Tensor
    contrary_ids: torch.Tensor
    contrary_rows: torch.Tensor
    lapa_labels: torch.Tensor
    celebamask_hq_labels: torch.Tensor
    landmarks: dict[int, torch.Tensor]
    attributes: torch.Tensor
    bool_masked_pos: torch.Tensor
    mim_targets: torch.Tensor


class JointFaRL(nn.Module):
    """
    The dual encoder with its masked branch, and the heads of all tasks on its tower. Parsers and aligners share neck
    and head but for the last layer.

    Args:
        config: Sizes; the labels are set here.
        attributes: Names in the order of the logits.
        weights: Of the losses.
    """

    def __init__(self, config: FaRLConfig, attributes: Sequence[str], weights: JointLossWeights = JointLossWeights()):
        super().__init__()
        self.attributes, self.weights = list(attributes), weights
        self.dual = FaRLForPreTraining(config)
        outputs = max(rows.stop for rows in _ROWS.values())
        dense = FaRLForFaceParsing(self._config(**_label_fields([str(i) for i in range(outputs)])))
        # The rows of its last layer are in `_ROWS`. Channels last: a third faster on CPUs.
        self.dense = nn.ModuleDict({"pyramid": dense.pyramid, "head": dense.decode_head})
        self.dense.to(memory_format=torch.channels_last)
        self.classifier = FaRLForImageClassification(self._config(**_label_fields(self.attributes))).classifier
        # What captions are matched with learns the attributes, too, for they say little of small things like smiles.
        # No model keeps this layer.
        self.probe = nn.Linear(config.vision_config.hidden_size, len(self.attributes))

    @property
    def config(self) -> FaRLConfig:
        return self.dual.config

    def tower_parameters(self) -> list[nn.Parameter]:
        """Of the vision tower, the text tower and what joins them."""
        return list(self.dual.parameters())

    def head_parameters(self) -> list[nn.Parameter]:
        """Of the heads of the tasks."""
        return [p for module in (self.dense, self.classifier, self.probe) for p in module.parameters()]

    def forward(self, batch: JointBatch, step: int = 0, tasks: bool = True) -> dict[str, torch.Tensor]:
        """
        Losses of a batch. The label sets take turns by `step`, and so do the landmark layouts.

        Args:
            batch: Faces.
            step: Count of steps.
            tasks: Whether to learn the tasks, or only ITC and MIM.

        Returns:
            `loss` (scalar) and its parts, unweighted: `itc`, `contrary`, `mim`, `parsing`, `dice`, `alignment`,
            `attributes`.
        """
        losses = self._pretraining_losses(batch, tasks)
        hidden_states, pooled = losses.pop("hidden_states"), losses.pop("pooled")
        if tasks:
            features = self._dense_features(hidden_states)
            losses["parsing"], losses["dice"] = self._parsing_losses(features, batch, _LABEL_SETS[step // 2 % 2])
            losses["alignment"] = self._alignment_loss(features, batch, _LAYOUTS[step % 2])
            answers = torch.stack([self.classifier(hidden_states[-1]), self.probe(pooled)]).float()
            truth = batch.attributes.expand_as(answers)
            losses["attributes"] = nn.functional.binary_cross_entropy_with_logits(answers, truth)
        total = sum(getattr(self.weights, name) * value for name, value in losses.items())
        return {"loss": total, **losses}

    def _pretraining_losses(self, batch: JointBatch, tasks: bool) -> dict:
        dual, vision = self.dual, self.dual.vision_model
        taps = sorted({*self.config.out_indices, self.config.vision_config.num_hidden_layers})
        outputs = vision(batch.pixel_values, output_hidden_states=taps if tasks else False, return_dict=True)
        image_embeds = unit_length(dual.visual_projection(outputs.pooler_output).float())
        text_embeds = self._text_embeds(batch.input_ids)
        scale = dual.logit_scale.exp().clamp(max=100)
        # Of a face's captions each has a batch of its own: two that are true of one picture never count as a mistake.
        logits = image_embeds @ text_embeds.transpose(1, 2) * scale
        itc = torch.stack([image_text_contrastive_loss(one) for one in logits]).mean()
        losses = {"itc": itc, "hidden_states": outputs.hidden_states, "pooled": outputs.pooler_output}
        if len(batch.contrary_rows):
            # Other pictures' captions differ in hair and age, which leaves nothing to learn from a smile (as in
            # "NegCLIP", Yuksekgonul et al. 2023, whose negative captions exchange words).
            true, false = self._text_embeds(batch.contrary_ids)
            margin = scale * (image_embeds[batch.contrary_rows] * (true - false)).sum(dim=-1)
            losses["contrary"] = nn.functional.softplus(-margin).mean()
        rows = len(batch.bool_masked_pos)
        if rows:
            masked = dual(
                pixel_values=batch.pixel_values[:rows],
                bool_masked_pos=batch.bool_masked_pos,
                mim_targets=batch.mim_targets,
            )
            losses["mim"] = masked.mim_loss
        return losses

    def _text_embeds(self, input_ids: torch.Tensor) -> torch.Tensor:
        """(n, batch, dim) float32 of unit length, for (n, batch, length)."""
        text = self.dual.get_text_features(input_ids.flatten(0, 1), return_dict=True).pooler_output
        return unit_length(text.float()).unflatten(0, input_ids.shape[:2])

    def _dense_features(self, hidden_states: Sequence[torch.Tensor]) -> torch.Tensor:
        """What the last layer of the dense head reads: (batch, head channels, ...)."""
        side = self.config.image_size // self.config.vision_config.patch_size
        taps = [tokens_to_map(hidden_states[i], (side, side)) for i in self.config.out_indices]
        taps = [tap.contiguous(memory_format=torch.channels_last) for tap in taps]
        head = self.dense["head"]
        last, head.conv_seg = head.conv_seg, nn.Identity()
        try:
            return head(self.dense["pyramid"](taps))
        finally:
            head.conv_seg = last

    def _outputs(self, features: torch.Tensor, name: str | int) -> torch.Tensor:
        """Float32 maps of one label set or one layout of landmarks."""
        last, rows = self.dense["head"].conv_seg, _ROWS[name]
        return nn.functional.conv2d(features, last.weight[rows], last.bias[rows]).float()

    def _parsing_losses(
        self, features: torch.Tensor, batch: JointBatch, name: str
    ) -> tuple[torch.Tensor, torch.Tensor]:
        labels = getattr(batch, f"{name}_labels")
        logits = resize_bilinear(self._outputs(features, name), tuple(labels.shape[-2:]))
        return nn.functional.cross_entropy(logits, labels), soft_dice_loss(logits, labels)

    def _alignment_loss(self, features: torch.Tensor, batch: JointBatch, layout: int) -> torch.Tensor:
        heatmaps, labels, size = (
            self._outputs(features, layout),
            batch.landmarks[layout].float(),
            self.config.heatmap_size,
        )
        targets = target_heatmaps(labels, size=size, radius=self.config.heatmap_radius)
        cross_entropy = nn.functional.binary_cross_entropy_with_logits(resize_bilinear(heatmaps, (size, size)), targets)
        # As the metric counts them: in units of the distance of the outer eye corners, which is short in profile.
        first, second = OUTER_EYE_CORNERS[layout]
        unit = (labels[:, first] - labels[:, second]).norm(dim=-1).clamp(min=_LEAST_UNIT)
        distances = (landmarks_from_heatmaps(heatmaps.sigmoid()) - labels).norm(dim=-1).mean(dim=1)
        return (distances / unit).mean() + 0.25 * cross_entropy

    # ------------------------------------------------------------------------------------------- its parts as models

    def models(self) -> dict[str, FaRLPreTrainedModel]:
        """The family: names of `farl_hf.pretrained` -> models, in evaluation mode, with tensors of their own."""
        tower = {f"vision_model.{key}": t for key, t in self.dual.vision_model.state_dict().items()}
        dense = {key: t for key, t in tower.items() if "post_layernorm" not in key}
        family: dict[str, FaRLPreTrainedModel] = {"farl-tiny": FaRLForPreTraining(self._config())}
        family["farl-tiny"].load_state_dict(self.dual.state_dict())
        for name, labels, rows in (
            ("farl-tiny-parsing", LAPA_LABELS, _ROWS["lapa"]),
            ("farl-tiny-parsing-celebamask-hq", CELEBAMASK_HQ_LABELS, _ROWS["celebamask_hq"]),
        ):
            model = FaRLForFaceParsing(self._config(**_label_fields(labels)))
            model.load_state_dict(dense | self._dense_state("decode_head", rows))
            family[name] = model
        for name, layout in (("farl-tiny-alignment", 68), ("farl-tiny-alignment-wflw", 98)):
            model = FaRLForFaceAlignment(self._config(num_landmarks=layout))
            model.load_state_dict(dense | self._dense_state("heatmap_head", _ROWS[layout]))
            family[name] = model
        fields = {**_label_fields(self.attributes), "problem_type": "multi_label_classification"}
        model = FaRLForImageClassification(self._config(**fields))
        classifier = {f"classifier.{key}": t for key, t in self.classifier.state_dict().items()}
        model.load_state_dict(dense | classifier)
        family["farl-tiny-attributes"] = model
        return {name: model.eval() for name, model in family.items()}

    def _dense_state(self, head: str, rows: slice) -> dict[str, torch.Tensor]:
        """Neck and head under the names of a model whose head is called `head`, with some rows of the last layer."""
        state = {f"pyramid.{key}": t for key, t in self.dense["pyramid"].state_dict().items()}
        for key, t in self.dense["head"].state_dict().items():
            state[f"{head}.{key}"] = t[rows] if key.startswith("conv_seg.") else t
        return state

    def _config(self, **fields) -> FaRLConfig:
        own = {key: value for key, value in self.config.to_dict().items() if key not in ("id2label", "label2id")}
        return FaRLConfig.from_dict({**own, "dtype": None, **fields})


def soft_dice_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """
    One minus the mean F1 of the classes that a batch shows, but background, with probabilities in the place of
    decisions (Milletari et al. 2016, "V-Net").

    Args:
        logits: (batch, classes, height, width).
        labels: (batch, height, width) int64 class ids; 0 is background.

    Returns:
        A scalar from 0 to 1.
    """
    probabilities = logits.softmax(dim=1)
    right = probabilities.gather(1, labels[:, None]).flatten()
    shown = torch.bincount(labels.flatten(), minlength=logits.shape[1])
    both = right.new_zeros(logits.shape[1]).index_add(0, labels.flatten(), right)
    f1 = 2 * both / (probabilities.sum(dim=(0, 2, 3)) + shown)
    there = shown > 0
    there[0] = False
    return 1 - f1[there].mean() if there.any() else logits.sum() * 0


def _label_fields(names: Sequence[str]) -> dict:
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


# Name -> size of the face in the crop: parsing sees the hair around it, landmarks see the face larger.
FACE_SCALES = {
    "farl-tiny-parsing": 1.0,
    "farl-tiny-parsing-celebamask-hq": 1.0,
    "farl-tiny-alignment": 1.2,
    "farl-tiny-alignment-wflw": 1.2,
    "farl-tiny-attributes": 1.0,
}


def save_models(joint: JointFaRL, output: str | Path) -> dict[str, Path]:
    """
    Writes the family as complete folders with their processors, weights in float16 that load as float32.

    Returns:
        Name -> folder.
    """
    folders, size = {}, joint.config.image_size
    for name, model in joint.models().items():
        folder = Path(output) / name
        model.half().save_pretrained(folder)
        config = model.config
        config.dtype = torch.float32
        config.save_pretrained(folder)
        if name in FACE_SCALES:
            processor = FaRLFaceImageProcessor(
                align="lapa", size=size, target_face_scale=FACE_SCALES[name], convention="facer", antialias=True
            )
        else:
            processor = build_processor(size, config.text_config.vocab_size)
        processor.save_pretrained(folder)
        folders[name] = folder
    return folders


__all__ = ["FACE_SCALES", "JointBatch", "JointFaRL", "JointLossWeights", "save_models"]
