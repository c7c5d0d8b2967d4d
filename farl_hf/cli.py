"""The `farl` command: `farl convert SOURCE OUTPUT` and `farl export-code FOLDER`."""

import argparse
import sys
from collections.abc import Sequence

CONVERT_HELP = """\
Convert an official FaRL, CLIP or facer checkpoint to a Hugging Face folder that
AutoModel.from_pretrained and AutoProcessor.from_pretrained read.

SOURCE is a file, or the name of an official release, which is downloaded:
  ep16, ep64                 the pre-trained dual encoders (652 MB each)
  lapa, celebamask_hq        face parsing
  ibug300w, wflw, aflw19     face alignment
  celeba                     face attributes
"""

CONVERT_EXAMPLES = """\
examples:
  farl convert ep64 farl-base
  farl convert FaRL-Base-Patch16-LAIONFace20M-ep16.pth farl-base-ep16
  farl convert farl-base farl-base-clip --to clip      # for CLIPModel and OpenAI's own code
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="farl", description="FaRL in the Hugging Face ecosystem.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    convert = commands.add_parser(
        "convert",
        help="official checkpoint -> Hugging Face folder",
        description=CONVERT_HELP,
        epilog=CONVERT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    convert.add_argument("source", metavar="SOURCE", help="a file, a release name, or (with --to clip) a FaRL folder")
    convert.add_argument("output", metavar="OUTPUT", help="folder to write")
    convert.add_argument(
        "--to", choices=("farl", "clip"), default="farl", help="layout to write (default: %(default)s)"
    )
    convert.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        default="float32",
        help="data type of the written weights (default: %(default)s)",
    )
    convert.add_argument("--raw", action="store_true", help="of trainer states, take the raw weights, not the averaged")
    convert.add_argument("--overwrite", action="store_true", help="replace OUTPUT if it is not empty")

    export = commands.add_parser(
        "export-code",
        help="make a saved folder loadable with trust_remote_code=True where farl_hf is not installed",
        description="Copy the model code into FOLDER and name it in its configs.",
    )
    export.add_argument("folder", metavar="FOLDER", help="folder written by save_pretrained or `farl convert`")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code, 2 for bad input."""
    arguments = build_parser().parse_args(argv)
    try:
        return _convert(arguments) if arguments.command == "convert" else _export(arguments)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _convert(arguments: argparse.Namespace) -> int:
    import torch

    from .checkpoints import convert_checkpoint

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


def _export(arguments: argparse.Namespace) -> int:
    from .hub import export_remote_code

    for path in export_remote_code(arguments.folder):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
