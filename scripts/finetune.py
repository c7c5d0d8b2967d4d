#!/usr/bin/env python
# /// script
# requires-python = ">=3.11"
# dependencies = ["farl_hf[tracking]"]
#
# [tool.uv.sources]
# farl_hf = { path = ".." }
# ///
"""
Fine-tune FaRL on a benchmark or on own data.

    python scripts/finetune.py --dataset lapa --data_dir data --model farl-base --output_dir farl-lapa
    python scripts/finetune.py --dataset wflw --data_dir data --model farl-base --tuning lora --head_channels 256 \
        --train_data_ratio 0.1 --output_dir farl-wflw-lora

Own data are a folder with a subfolder per split (train, validation, test), each with images/ and the truth beside it:
labels/*.png, landmarks.csv, landmarks/*.pts, keypoints.json (COCO) or attributes.csv.

    python scripts/finetune.py --dataset own --data_dir data --task parsing --names background skin hair \
        --model farl-base --output_dir hair

The flags of transformers.TrainingArguments work beside ours, and the recipe (--recipe short or paper) sets their
defaults: --learning_rate is that of neck and head; the paper's --lr_scheduler_type is constant with a tenth from epoch
200 on, and any other takes its place. Label smoothing, optimizers that divide the parameters by themselves, and FSDP
with averaged weights are refused. Scores are computed face by face, so the flags of how the Trainer gathers predictions
(--eval_accumulation_steps, --batch_eval_metrics and their like) change nothing. A killed run goes on where it stopped
when the same command is given again.
"""

import logging
import sys

from transformers import HfArgumentParser, TrainingArguments

from farl_hf.finetuning import FinetuneConfig, finetune
from farl_hf.finetuning.recipes import recipe_defaults
from farl_hf.finetuning.results import results_table


def parse(arguments: list[str]) -> tuple[FinetuneConfig, TrainingArguments]:
    """Our settings first: the defaults of the others follow from the recipe."""
    config, _ = HfArgumentParser(FinetuneConfig).parse_args_into_dataclasses(arguments, return_remaining_strings=True)
    parser = HfArgumentParser((FinetuneConfig, TrainingArguments), description=__doc__)
    parser.set_defaults(**recipe_defaults(config))
    return parser.parse_args_into_dataclasses(arguments)


def main(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        HfArgumentParser((FinetuneConfig, TrainingArguments), description=__doc__).parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        result = finetune(*parse(arguments))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{result.output_dir}: {result.trainable_parameters:,} of {result.parameters:,} parameters trained, ", end="")
    print(f"{result.saved_bytes / 1e6:.1f} MB saved, peak memory {result.peak_memory_bytes / 2**30:.2f} GiB, ", end="")
    print(f"{result.num_bad} bad samples")
    print(results_table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
