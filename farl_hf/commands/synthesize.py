"""`farl synthesize OUTPUT`: labelled faces without a licence, as shards or in a benchmark's layout."""

import argparse
import os
from dataclasses import fields
from typing import Any

from ..synthetic.config import EFFECTS, SyntheticFaceConfig

NAME, SUMMARY = "synthesize", "generated faces with exact labels -> shards or the layout of a benchmark"
DESCRIPTION = """\
Draw faces in three dimensions and write them with their truth to OUTPUT.

Layouts:
  webdataset      OUTPUT/00000.tar ...: pictures and captions, as img2dataset writes them
  lapa            OUTPUT/LaPa: maps of 11 classes and 106 landmarks
  celebamask_hq   OUTPUT/CelebAMask-HQ: maps of 19 classes
  ibug300w        OUTPUT/IBUG300W: 68 landmarks
  wflw            OUTPUT/WFLW: 98 landmarks
  aflw19          OUTPUT/AFLW-19: 19 landmarks with visibility
  celeba          OUTPUT/celeba: 40 attributes and five points

Every benchmark's layout is read by `scripts/finetune.py --dataset LAYOUT --data_dir OUTPUT`, shards by
`scripts/pretrain.py`. A run that was killed goes on where it stopped when the same command is given again.
Needs pip install 'farl_hf[synthetic]'.
"""

EXAMPLES = """\
examples:
  farl synthesize data --layout lapa --num 10000
  farl synthesize shards --layout webdataset --num 100000 --image-size 256
  farl synthesize profiles --layout wflw --num 2000 --yaw 60 90 --glasses 0.5
  farl synthesize bare --layout ibug300w --num 500 --without glasses hats occluders
  farl synthesize indoors --layout celeba --num 5000 --backgrounds photos/rooms
"""

LAYOUTS = ("webdataset", "lapa", "celebamask_hq", "ibug300w", "wflw", "aflw19", "celeba")

# Those with an official validation split.
_VALIDATED = ("lapa", "celebamask_hq", "celeba")

# Setting -> (names of its values, what it is): the fields of `SyntheticFaceConfig` that a command line can give.
_SETTINGS: dict[str, tuple[str | tuple[str, ...], str]] = {
    "image_size": ("PIXELS", "side of the square pictures, 48 to 1024"),
    "num_faces": (("LEAST", "MOST"), "faces in a picture, 1 to 6; labels of a benchmark are of the front-most"),
    "yaw": (("SPREAD", "LIMIT"), "the head's turn in degrees: standard deviation, and largest to either side"),
    "pitch": (("SPREAD", "LIMIT"), "its nod"),
    "roll": (("SPREAD", "LIMIT"), "its tilt"),
    "face_size": (("LEAST", "MOST"), "height of a face from hairline to chin, as a share of the picture"),
    "ages": (("YOUNGEST", "OLDEST"), "in years, 2 to 90, equally likely in between"),
    "skin_tones": (("LIGHTEST", "DARKEST"), "0 (very light) to 1 (very dark), equally likely in between"),
    "male": ("P", "probability of a man"),
    "glasses": ("P", "probability of glasses"),
    "sunglasses": ("P", "of sunglasses"),
    "hat": ("P", "of a hat"),
    "headscarf": ("P", "of a headscarf"),
    "beard": ("P", "of facial hair, for a man"),
    "makeup": ("P", "of make-up, for a woman"),
    "earrings": ("P", "of earrings, for a woman"),
    "necklace": ("P", "of a necklace"),
    "occluder": ("P", "of a hand or a thing before the face"),
    "depth_of_field": ("P", "of a wide lens, sharp at the face only"),
    "blur": ("P", "of blur"),
    "noise": ("P", "of sensor noise"),
    "grey": ("P", "of a picture without colours"),
    "jpeg": ("P", "of strong compression"),
    "max_captions": ("MOST", "captions of a picture; each has at least one"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output", metavar="OUTPUT", help="folder to write; made if it is not there")
    parser.add_argument("--layout", choices=LAYOUTS, default="webdataset", help="(default: %(default)s)")
    parser.add_argument("--num", type=int, default=10_000, help="pictures, of benchmarks to train on (default: 10,000)")
    parser.add_argument(
        "--num-test", type=int, metavar="NUM", help="further pictures to test by (default: a tenth of --num)"
    )
    parser.add_argument(
        "--num-val",
        type=int,
        metavar="NUM",
        help=f"further pictures to validate by, for {', '.join(_VALIDATED)} (default: a tenth of --num)",
    )
    parser.add_argument(
        "--samples-per-shard", type=int, default=1000, metavar="NUM", help="of a webdataset (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="sets of other seeds share no picture (default: 0)")
    parser.add_argument("--num-workers", type=int, metavar="NUM", help="processes that draw (default: all cores)")
    group = parser.add_argument_group("what is drawn")
    defaults: dict[str, Any] = {field.name: field.default for field in fields(SyntheticFaceConfig)}
    for name, (values, meaning) in _SETTINGS.items():
        default = defaults[name]
        several = isinstance(default, tuple)
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=type(default[0] if several else default),
            nargs=len(values) if several else None,
            metavar=values,
            default=default,
            help=f"{meaning} (default: {' '.join(map(str, default)) if several else default})",
        )
    group.add_argument(
        "--without", nargs="+", choices=EFFECTS, default=(), metavar="EFFECT", help=f"leave out {', '.join(EFFECTS)}"
    )
    group.add_argument(
        "--style",
        choices=("train", "held_out"),
        default="train",
        help="held_out has other hair, lights, backgrounds and cameras, to measure transfer by (default: %(default)s)",
    )
    group.add_argument("--backgrounds", metavar="FOLDER", help="photos to put behind half of the faces")


def run(arguments: argparse.Namespace) -> int:
    names = (*_SETTINGS, "without", "style", "backgrounds")
    config = SyntheticFaceConfig(**{name: getattr(arguments, name) for name in names})
    layout, num, num_test, num_val = arguments.layout, arguments.num, arguments.num_test, arguments.num_val
    if num < 1:
        raise ValueError(f"--num is {num}: at least one picture.")
    if num_test is not None and layout == "webdataset":
        raise ValueError("--num-test: a webdataset has no splits; write two folders, with different --seed.")
    if num_val is not None and layout not in _VALIDATED:
        raise ValueError(f"--num-val: {layout} has no validation split.")
    num_test, num_val = (max(1, num // 10) if given is None else given for given in (num_test, num_val))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    num_workers = cores if arguments.num_workers is None else arguments.num_workers
    options = {"config": config, "seed": arguments.seed, "num_workers": num_workers}

    from ..synthetic import writers

    if layout == "webdataset":
        writers.write_webdataset(arguments.output, num, arguments.samples_per_shard, **options)
    elif layout == "aflw19":
        writers.write_aflw19(arguments.output, num, num_test, **options)
    else:
        if layout in _VALIDATED:
            counts = {"train": num, "val": num_val, "test": num_test}
        elif layout == "wflw":
            counts = {"train": num, "test": num_test}
        else:
            # The official challenging subset is a fifth of the test set.
            counts = {"train": num, "valid_common": num_test - num_test // 5, "valid_challenge": num_test // 5}
        getattr(writers, f"write_{layout}")(arguments.output, counts, **options)
    print(f"{arguments.output}: {layout}, made of generated faces")
    return 0
