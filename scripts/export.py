#!/usr/bin/env python
"""
Write a model as an ONNX file, a torch.export program, for OpenVINO or for ExecuTorch.

    python scripts/export.py --model farl-base --output farl-base.onnx
    python scripts/export.py --model farl-lapa --output farl-lapa.onnx --optimize --argmax  # faster; class ids
    python scripts/export.py --model farl-lapa --output farl-lapa.onnx --int8 crops         # 8 bits, measured on crops
    python scripts/export.py --model farl-wflw --output farl-wflw.pt2
    python scripts/export.py --model farl-wflw --output farl-wflw.xml                       # pip install openvino
    python scripts/export.py --model farl-wflw --output farl-wflw.pte                       # or for ExecuTorch

The file takes CLIP-normalised pixel_values (and input_ids) of any batch size at the model's image size. ONNX files are
compared with the model in onnxruntime, and the script fails where they differ by more than rounding. The difference of
8-bit files is printed: measure their accuracy on your data. For ExecuTorch (pip install executorch==1.5.1) it takes one
image, of parsing, alignment or attributes, and runs slower on a desktop than the others.
"""

import argparse
import sys
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoConfig

import farl_hf
from farl_hf.inference.export import (
    export_executorch,
    export_int8_onnx,
    export_onnx,
    export_openvino,
    export_program,
    onnx_difference,
    tolerance,
)
from farl_hf.inference.optimization import optimize_for_inference
from farl_hf.weights import model_folder

_ENDINGS = ".onnx, .pt2, .xml or .pte"
_PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder, Hub name or farl-tiny-..., of any model")
    parser.add_argument("--output", required=True, type=Path, help=f"file that ends in {_ENDINGS}")
    parser.add_argument("--argmax", action="store_true", help="face parsing: class ids in the place of logits")
    parser.add_argument("--optimize", action="store_true", help="ONNX of the faster copy, see optimize_for_inference")
    parser.add_argument("--int8", type=Path, metavar="FOLDER", help="ONNX in 8 bits, measured on FOLDER's face crops")
    options = parser.parse_args(arguments)
    if options.output.suffix not in (".onnx", ".pt2", ".xml", ".pte"):
        parser.error(f"--output {options.output} must end in {_ENDINGS}")
    if options.output.suffix != ".onnx" and (options.optimize or options.int8):
        parser.error("--optimize and --int8 are of ONNX files")
    if options.output.suffix in (".xml", ".pte") and options.argmax:
        parser.error("--argmax is of ONNX files and torch.export programs")
    try:
        options.model = model_folder(options.model)
        model = load(options.model)
        if options.output.suffix == ".pt2":
            export_program(model, options.output, options.argmax)
        elif options.output.suffix == ".xml":
            export_openvino(model, options.output)
        elif options.output.suffix == ".pte":
            export_executorch(model, options.output)
        elif not write_onnx(model, options):
            return 1
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"Written: {options.output} ({options.output.stat().st_size / 1e6:.0f} MB)")
    return 0


def load(name: str) -> farl_hf.FaRLPreTrainedModel:
    architecture = (AutoConfig.from_pretrained(name).architectures or ["no architecture"])[0]
    if not hasattr(farl_hf, architecture):
        raise ValueError(
            f"{name} names {architecture}, no model of farl_hf. FaRLModel.from_pretrained opens a CLIP model's folder; "
            "save it, and export what was saved."
        )
    return getattr(farl_hf, architecture).from_pretrained(name)


def write_onnx(model: farl_hf.FaRLPreTrainedModel, options: argparse.Namespace) -> bool:
    """Writes and compares; whether the file is as near to the model as it should be."""
    pixel_values = None
    if options.int8:
        pixel_values = read_crops(options.model, options.int8)
        export_int8_onnx(model, options.output, pixel_values, options.argmax)
    else:
        export_onnx(optimize_for_inference(model) if options.optimize else model, options.output, options.argmax)
    difference = onnx_difference(model, options.output, options.argmax, pixel_values=pixel_values)
    limit = tolerance(model, options.argmax)
    what = "share of pixels with another class" if options.argmax else "largest difference"
    print(f"In onnxruntime: {what} {difference:.1e}" + ("" if options.int8 else f" (at most {limit:.1e})"))
    if options.int8 or difference <= limit:
        return True
    print(f"error: {options.output} does not give the model's numbers; it was removed", file=sys.stderr)
    options.output.unlink()
    return False


def read_crops(model: str, folder: Path) -> torch.Tensor:
    """Up to 64 face crops as `pixel_values` at the model's size; each picture is taken whole."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _PICTURES)[:64]
    if not paths:
        raise ValueError(f"{folder} has no pictures ({', '.join(_PICTURES)}).")
    settings = farl_hf.FaRLFaceImageProcessor.from_pretrained(model).to_dict()
    processor = farl_hf.FaRLFaceImageProcessor.from_dict({**settings, "align": None})
    return processor([Image.open(path) for path in paths], return_tensors="pt")["pixel_values"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
