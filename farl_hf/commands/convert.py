"""`farl convert SOURCE OUTPUT`: an official checkpoint becomes a Hugging Face folder."""

import argparse

NAME, SUMMARY = "convert", "official checkpoint -> Hugging Face folder"
DESCRIPTION = """\
Convert an official FaRL, CLIP or facer checkpoint to a Hugging Face folder that
AutoModel.from_pretrained and AutoProcessor.from_pretrained read.

SOURCE is a file, or the name of an official release, which is downloaded:
  ep16, ep64                 the pre-trained dual encoders (652 MB each)
  lapa, celebamask_hq        face parsing
  ibug300w, wflw, aflw19     face alignment
  celeba                     face attributes
"""

EXAMPLES = """\
examples:
  farl convert ep64 farl-base
  farl convert FaRL-Base-Patch16-LAIONFace20M-ep16.pth farl-base-ep16
  farl convert farl-base farl-base-clip --to clip      # for CLIPModel and OpenAI's own code
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="a file, a release name, or (with --to clip) a FaRL folder")
    parser.add_argument("output", metavar="OUTPUT", help="folder to write")
    parser.add_argument("--to", choices=("farl", "clip"), default="farl", help="layout to write (default: %(default)s)")
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        default="float32",
        help="data type of the written weights (default: %(default)s)",
    )
    parser.add_argument("--raw", action="store_true", help="of trainer states, take the raw weights, not the averaged")
    parser.add_argument("--overwrite", action="store_true", help="replace OUTPUT if it is not empty")


def run(arguments: argparse.Namespace) -> int:
    import torch

    from ..conversion.checkpoints import convert_checkpoint

    result = convert_checkpoint(
        arguments.source,
        arguments.output,
        to=arguments.to,
        dtype=getattr(torch, arguments.dtype),
        use_ema=not arguments.raw,
        overwrite=arguments.overwrite,
    )
    print(f"{result.output}: {result.architecture}, {result.num_tensors} tensors ({arguments.dtype})")
    if result.left_out:
        print(f"left out, because the original never uses them: {', '.join(result.left_out)}")
    return 0
