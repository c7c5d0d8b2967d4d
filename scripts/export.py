#!/usr/bin/env python
"""
Write a model as an ONNX file or a torch.export program.

    python scripts/export.py --model farl-base --output farl-base.onnx
    python scripts/export.py --model farl-lapa --output farl-lapa.onnx --argmax   # class ids instead of logits
    python scripts/export.py --model farl-wflw --output farl-wflw.pt2

The file takes CLIP-normalised pixel_values (and input_ids) of any batch size at the model's image size. ONNX files are
compared with the model in onnxruntime before the script ends.
"""

import argparse
import sys
from pathlib import Path

from transformers import AutoConfig

import farl_hf
from farl_hf.inference.export import export_onnx, export_program, onnx_difference


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub name of a dual encoder or task model")
    parser.add_argument("--output", required=True, type=Path, help="file that ends in .onnx or .pt2")
    parser.add_argument("--argmax", action="store_true", help="face parsing: class ids in the place of logits")
    options = parser.parse_args(arguments)
    if options.output.suffix not in (".onnx", ".pt2"):
        parser.error(f"--output {options.output} must end in .onnx or .pt2")
    try:
        architecture = AutoConfig.from_pretrained(options.model).architectures[0]
        model = getattr(farl_hf, architecture).from_pretrained(options.model)
        if options.output.suffix == ".pt2":
            export_program(model, options.output, options.argmax)
        else:
            export_onnx(model, options.output, options.argmax)
            difference = onnx_difference(model, options.output, options.argmax)
            what = "share of pixels with another class" if options.argmax else "largest relative difference"
            print(f"In onnxruntime: {what} {difference:.1e}")
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"Written: {options.output} ({options.output.stat().st_size / 1e6:.0f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
