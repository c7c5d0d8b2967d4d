"""The benchmarks of the paper: reader, task, crop, augmentation and recipe of each (`*/trainers/*.yaml`)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import datasets

from ..datasets.aflw19 import load_aflw19
from ..datasets.celeba import load_celeba
from ..datasets.celebamask_hq import load_celebamask_hq
from ..datasets.ibug300w import load_ibug300w
from ..datasets.labels import CELEBA_ATTRIBUTES, CELEBAMASK_HQ_LABELS, LAPA_LABELS
from ..datasets.lapa import load_lapa
from ..datasets.own_data import load_own_data, own_splits
from ..datasets.wflw import load_wflw
from ..models.image_processing_farl import FaRLFaceImageProcessor
from .augmentation import (
    ALIGNMENT_AUGMENTATION,
    ATTRIBUTE_AUGMENTATION,
    PARSING_AUGMENTATION,
    AugmentationConfig,
)
from .tasks import AlignmentTask, AttributesTask, FaceTask, ParsingTask


@dataclass(frozen=True)
class Benchmark:
    """
    A data set and how models are trained and tested on it.

    Args:
        name: As on the command line.
        load: `load(data_dir, split, skip_bad=..., strict=...)` gives the rows.
        task: What is learnt.
        crop: Arguments of [`FaRLFaceImageProcessor`] but `size` and `convention`.
        augmentation: Of training faces.
        head_lr: Learning rate of neck and head in the paper's recipe; the ViT's is 1e-4.
        paper_epochs, short_epochs: Of the recipes. The short ones are where the released logs are at their best, or
            soon after: from there on the paper's recipe over-fits.
        milestone: Epoch from which the paper's recipe divides the learning rate by 10.
        validation_split: Official validation split, if there is one.
        list_splits: `list_splits(data_dir)` names the splits, where they are not known beforehand.
    """

    name: str
    load: Callable[..., datasets.Dataset]
    task: FaceTask
    crop: Mapping[str, Any]
    augmentation: AugmentationConfig
    head_lr: float
    paper_epochs: int
    short_epochs: int
    milestone: int = 200
    validation_split: str | None = None
    list_splits: Callable[[str], list[str]] | None = None

    def processor(
        self, image_size: int, convention: str, target_face_scale: float | None = None
    ) -> FaRLFaceImageProcessor:
        """The processor of models at `image_size`, in the given coordinate convention."""
        crop = dict(self.crop)
        if target_face_scale is not None:
            crop["target_face_scale"] = target_face_scale
        return FaRLFaceImageProcessor(size=image_size, convention=convention, **crop)


_PARSING: dict[str, Any] = {
    "augmentation": PARSING_AUGMENTATION,
    "head_lr": 1e-3,
    "paper_epochs": 300,
    "validation_split": "val",
}
_ALIGNMENT: dict[str, Any] = {"augmentation": ALIGNMENT_AUGMENTATION, "head_lr": 1e-2}
# 300W and WFLW show 1 / 0.8 of the HRNet box, AFLW-19 its own box (`face_alignment/trainers/*.yaml`).
_HRNET_CROP = {"align": "box", "target_face_scale": 0.8}

BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            "lapa",
            load_lapa,
            ParsingTask(LAPA_LABELS),
            {"align": "lapa", "warp_factor": 0.8},
            short_epochs=60,
            **_PARSING,
        ),
        Benchmark(
            "celebamask_hq",
            load_celebamask_hq,
            ParsingTask(CELEBAMASK_HQ_LABELS),
            {"align": None},
            short_epochs=30,
            **_PARSING,
        ),
        Benchmark(
            "ibug300w",
            load_ibug300w,
            AlignmentTask(68, "ibug300w", "inter_ocular"),
            _HRNET_CROP,
            paper_epochs=250,
            short_epochs=60,
            **_ALIGNMENT,
        ),
        Benchmark(
            "wflw",
            load_wflw,
            AlignmentTask(98, "wflw", "inter_ocular"),
            _HRNET_CROP,
            paper_epochs=150,
            short_epochs=30,
            **_ALIGNMENT,
        ),
        Benchmark(
            "aflw19",
            load_aflw19,
            AlignmentTask(19, "aflw19", "diag"),
            {"align": "box"},
            augmentation=replace(ALIGNMENT_AUGMENTATION, scale_mean=1.0),
            head_lr=1e-2,
            paper_epochs=150,
            short_epochs=15,
        ),
        # The original's training on CelebA is not released: these settings are ours.
        Benchmark(
            "celeba",
            load_celeba,
            AttributesTask(CELEBA_ATTRIBUTES),
            {"align": "celeba"},
            augmentation=ATTRIBUTE_AUGMENTATION,
            head_lr=1e-3,
            paper_epochs=15,
            short_epochs=15,
            validation_split="val",
        ),
    )
}


def own_benchmark(
    task: FaceTask,
    align: str | None = None,
    columns: Mapping[str, str] | None = None,
    target_face_scale: float = 1.0,
    epochs: int = 30,
) -> Benchmark:
    """
    Own data in the place of a benchmark, see [`farl_hf.datasets.own_data.load_own_data`].

    Args:
        task: What is learnt.
        align: How faces are cut out, see [`FaRLFaceImageProcessor`]; `None` takes whole images.
        columns: Our column names -> the data set's.
        target_face_scale: Size of the face in the crop, for `"lapa"` and `"box"`.
        epochs: Of both recipes.
    """

    def load(source: str, split: str, skip_bad: bool = False, strict: bool = False) -> datasets.Dataset:
        return load_own_data(source, split, columns, skip_bad, task.column)

    settings: dict[str, dict[str, Any]] = {
        "parsing": {"augmentation": PARSING_AUGMENTATION, "head_lr": 1e-3},
        "alignment": {"augmentation": replace(ALIGNMENT_AUGMENTATION, scale_mean=target_face_scale), "head_lr": 1e-2},
        "attributes": {"augmentation": ATTRIBUTE_AUGMENTATION, "head_lr": 1e-3},
    }
    return Benchmark(
        "own",
        load,
        task,
        {"align": align, "target_face_scale": target_face_scale},
        paper_epochs=epochs,
        short_epochs=epochs,
        list_splits=own_splits,
        **settings[task.name],
    )
