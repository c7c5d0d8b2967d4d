"""
From nothing to the weights in the package: draws faces, trains farl-tiny on them, packs the family, scores it.

Every step goes on from where a killed run stopped, when the same command is given again. Drawing runs in processes of
its own while training has begun; training picks up new pictures as they come.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch

from farl_hf.finetuning.augmentation import SYNTHETIC_AUGMENTATION
from farl_hf.finetuning.joint import save_models
from farl_hf.models.configuration_farl import FaRLConfig
from farl_hf.models.modeling_farl import (
    FaRLForFaceAlignment,
    FaRLForFaceParsing,
    FaRLForImageClassification,
    FaRLModel,
)
from farl_hf.models.tokenization import build_clip_tokenizer
from farl_hf.weights import pack_family

TRAIN_SEED, HELD_OUT_SEED = 71, 72
# For the last stage: pictures that are less spoilt, in crops that vary less.
MILD_AUGMENTATION = SYNTHETIC_AUGMENTATION.milder(0.65)
# Pictures that training waits for.
_FIRST_PICTURES = 1024
_CLASSES = {
    "farl-tiny": FaRLModel,
    "farl-tiny-parsing": FaRLForFaceParsing,
    "farl-tiny-parsing-celebamask-hq": FaRLForFaceParsing,
    "farl-tiny-alignment": FaRLForFaceAlignment,
    "farl-tiny-alignment-wflw": FaRLForFaceAlignment,
    "farl-tiny-attributes": FaRLForImageClassification,
}


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    if options.draw is not None:
        draw(options)
        return
    if not options.finish_only:
        train(options, start_drawing(options))
    finish(options)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("farl_tiny_output"), help="folder of all that is made")
    parser.add_argument("--pictures", type=int, default=20_000, help="faces to draw for training")
    parser.add_argument("--held_out", type=int, default=1024, help="faces of the held-out style to draw")
    parser.add_argument("--drawers", type=int, default=1, help="processes that draw beside the training")
    parser.add_argument(
        "--minutes",
        type=float,
        nargs=4,
        default=(2.0, 31.0, 14.0, 5.0),
        metavar=("PRETRAIN", "SMALL", "FULL", "MILD"),
        help="of training with ITC + MIM at 64 px, with all tasks at 64 px, at 96 px, and at 112 px with milder "
        "augmentation; a finished run that is given more goes on",
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the training")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches; those of the faces are fixed")
    parser.add_argument("--quick", action="store_true", help="a minute of everything, to see that it runs")
    parser.add_argument("--finish_only", action="store_true", help="pack and score what is trained so far")
    parser.add_argument("--draw", type=int, nargs=2, metavar=("PART", "PARTS"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.quick:
        options.pictures, options.held_out, options.minutes, options.batch_size = 32, 16, (0.1, 0.1, 0.1, 0.1), 8
    return options


def draw(options: argparse.Namespace) -> None:
    """What one drawing process does: the held-out faces first, since they are few."""
    from experiments.tiny_data import draw_faces

    part, parts = options.draw
    draw_faces(options.output / "held_out", options.held_out, HELD_OUT_SEED, "held_out", part, parts)
    draw_faces(options.output / "train", options.pictures, TRAIN_SEED, "train", part, parts)


def start_drawing(options: argparse.Namespace) -> list[subprocess.Popen]:
    command = [sys.executable, __file__, "--output", str(options.output), "--pictures", str(options.pictures)]
    command += ["--held_out", str(options.held_out)]
    parts = str(options.drawers)
    return [subprocess.Popen([*command, "--draw", str(part), parts]) for part in range(options.drawers)]


def train(options: argparse.Namespace, drawing: list[subprocess.Popen]) -> None:
    from experiments.tiny_data import DrawnFaces
    from experiments.tiny_training import Stage, TinyRun, TinyTraining

    tokenizer = build_clip_tokenizer(FaRLConfig.from_preset("farl-tiny").text_config.vocab_size)
    faces = DrawnFaces(options.output / "train", tokenizer)
    while len(faces) < min(options.pictures, _FIRST_PICTURES):
        if any(process.poll() for process in drawing):
            raise SystemExit("A drawing process failed, see above.")
        time.sleep(2)
        faces.refresh()
    pretrain, small, full, mild = options.minutes
    settings = TinyTraining(
        stages=(
            Stage("pre-training", 64, pretrain, tasks=False, masked_share=0.5),
            Stage("joint, 64 px", 64, small),
            Stage("joint, 96 px", 96, full),
            Stage("joint, 112 px", 112, mild, augmentation=MILD_AUGMENTATION),
        ),
        batch_size=options.batch_size,
        seed=options.seed,
        device=options.device,
    )
    TinyRun(settings, faces, DrawnFaces(options.output / "held_out", tokenizer), options.output / "run").run()
    for process in drawing:
        process.wait()


def finish(options: argparse.Namespace) -> None:
    """Complete folders in `models`, the packed family in `family`, and what it scores in `scores.json` and `.md`."""
    from experiments.tiny_cards import card_facts, family_card, held_out_tables, scores_as_json, write_folder_cards
    from experiments.tiny_data import DrawnFaces
    from experiments.tiny_scores import score_family
    from experiments.tiny_sheets import worst_faces
    from experiments.tiny_training import load_average

    tokenizer = build_clip_tokenizer(FaRLConfig.from_preset("farl-tiny").text_config.vocab_size)
    held_out = DrawnFaces(options.output / "held_out", tokenizer)
    folders = save_models(load_average(options.output / "run", held_out.attributes), options.output / "models")
    models = {name: _CLASSES[name].from_pretrained(folder).eval() for name, folder in folders.items()}
    scores = score_family(models, held_out, options.held_out)
    write_folder_cards(folders, scores)
    (options.output / "scores.json").write_text(scores_as_json(scores))
    (options.output / "scores.md").write_text(held_out_tables(scores, held_out) + "\n")
    worst_faces(models, scores, held_out, options.output / "farl-tiny-worst.jpg")
    (options.output / "farl-tiny.md").write_text(family_card(card_facts(options.output, models, scores, held_out)))
    print(pack_family(folders, options.output / "family"), scores.headline())


if __name__ == "__main__":
    main()
