#!/usr/bin/env python
"""
A page that finds faces, their parts and their landmarks in the browser: farl-tiny as ONNX in onnxruntime-web. No photo
leaves the machine, and no server computes anything; the folder is plain files for any static host.

    python scripts/browser/build.py farl-in-browser     # needs npm, and pip install '.[detection,export]'
    python -m http.server --directory farl-in-browser   # then open http://localhost:8000

OUTPUT receives index.html, browser.js, page.css and faces.js (the ones of `farl serve`), settings.json, the networks
(parsing.onnx, alignment.onnx, yunet.onnx) and onnxruntime-web from npm. Faces are cut out and pasted back as the
pipelines do it; heads are not turned upright first, so that tilted ones are cut out less well than in Python.

Other models: `--parsing farl-lapa --alignment farl-wflw`, whose crops are aligned by five points without a warp.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np

import farl_hf
from farl_hf.inference.detection import YuNetDetector
from farl_hf.inference.drawing import LANDMARK_LINES, palette
from farl_hf.inference.export import export_onnx, onnx_difference, tolerance
from farl_hf.models.geometry_farl import standard_five_points

# Newer ones should do; this one was tested.
RUNTIME = "onnxruntime-web@1.30.0"
RUNTIME_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
_HERE = Path(__file__).parent
_SHARED = Path(farl_hf.__file__).parent / "inference/page"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="folder to write")
    parser.add_argument("--parsing", metavar="MODEL", help="(default: farl-tiny-parsing)")
    parser.add_argument("--alignment", metavar="MODEL", help="(default: farl-tiny-alignment)")
    options = parser.parse_args(arguments)
    parsing = options.parsing or farl_hf.pretrained("farl-tiny-parsing")
    alignment = options.alignment or farl_hf.pretrained("farl-tiny-alignment")
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        settings: dict[str, dict] = {}
        for task, model_class, folder in (
            ("parsing", farl_hf.FaRLForFaceParsing, parsing),
            ("alignment", farl_hf.FaRLForFaceAlignment, alignment),
        ):
            settings[task] = export(model_class.from_pretrained(folder), folder, options.output / f"{task}.onnx")
        detector = YuNetDetector()
        settings["detector"] = {"threshold": detector.threshold, "sides": [640, 320]}
        with_float_weights(detector.path, options.output / "yunet.onnx")
        fetch_runtime(options.output)
    except (ValueError, OSError, ImportError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    (options.output / "settings.json").write_text(json.dumps(settings))
    for file in (_HERE / "index.html", _HERE / "browser.js", _SHARED / "page.css", _SHARED / "faces.js"):
        shutil.copy(file, options.output)
    size = sum(path.stat().st_size for path in options.output.iterdir())
    print(f"Written: {options.output} ({size / 1e6:.0f} MB). python -m http.server --directory {options.output}")
    return 0


def export(model: farl_hf.FaRLPreTrainedModel, folder: str, path: Path) -> dict:
    """Writes a network, and says what the page must know of it."""
    processor = farl_hf.FaRLFaceImageProcessor.from_pretrained(folder)
    if processor.align != "lapa" or processor.warp_factor or processor.convention != "facer":
        raise ValueError(f"{folder} has another crop than the page makes (align lapa, facer, no warp).")
    export_onnx(model, path)
    if (difference := onnx_difference(model, path)) > tolerance(model):
        raise ValueError(f"{path} differs from the model by {difference:.1e}.")
    size = processor.size
    settings = {
        "size": size,
        "mean": list(processor.image_mean),
        "std": list(processor.image_std),
        "points": standard_five_points(size, processor.target_face_scale).tolist(),
    }
    if isinstance(model, farl_hf.FaRLForFaceParsing):
        names = [model.config.id2label[i] for i in range(model.config.num_labels)]
        return {**settings, "names": names, "colours": palette(names).tolist()}
    return {**settings, "lines": [list(line) for line in LANDMARK_LINES.get(model.config.num_landmarks, [])]}


def with_float_weights(source: Path, target: Path) -> None:
    """
    A network of which only weights are in 8 bits, with the same weights in fp32: onnxruntime refuses the blocks that
    OpenCV's file has.
    """
    import onnx
    from onnx import numpy_helper

    network = onnx.load(source)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in network.graph.initializer}
    for node in [node for node in network.graph.node if node.op_type == "DequantizeLinear"]:
        weights, scale, *zero = (constants[name] for name in node.input)
        attributes = {attribute.name: attribute.i for attribute in node.attribute}
        size_and_axis = attributes.get("block_size", 0), attributes.get("axis", 1)
        scales, *zeros = (_for_every_weight(values, weights.shape, *size_and_axis) for values in (scale, *zero))
        levels = weights.astype(np.float32) - (zeros[0].astype(np.float32) if zeros else 0)
        network.graph.initializer.append(numpy_helper.from_array(levels * scales, node.output[0]))
        network.graph.node.remove(node)
    used = {name for node in network.graph.node for name in node.input}
    for tensor in [tensor for tensor in network.graph.initializer if tensor.name not in used]:
        network.graph.initializer.remove(tensor)
    onnx.save(network, target)


def _for_every_weight(values: np.ndarray, shape: tuple[int, ...], block_size: int, axis: int) -> np.ndarray:
    """One value per tensor, per place on the axis, or per block of the axis, as it is broadcast to the weights."""
    if values.size == 1:
        return values.reshape(())
    if values.ndim == 1:
        return values.reshape([-1 if i == axis % len(shape) else 1 for i in range(len(shape))])
    return np.repeat(values, block_size, axis).take(range(shape[axis]), axis)


def fetch_runtime(output: Path) -> None:
    """onnxruntime-web's files, which npm fetches and checks."""
    if all((output / name).is_file() for name in RUNTIME_FILES):
        return
    if shutil.which("npm") is None:
        raise OSError(f"npm is missing: it fetches {RUNTIME}.")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", RUNTIME], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        (archive,) = Path(folder).glob("*.tgz")
        with tarfile.open(archive) as files:
            for name in (*RUNTIME_FILES, "LICENSE"):
                try:
                    content = files.extractfile(f"package/dist/{name}" if name in RUNTIME_FILES else f"package/{name}")
                except KeyError:
                    continue  # not every release has its licence in the archive
                target = output / (name if name in RUNTIME_FILES else "onnxruntime-web.LICENSE")
                target.write_bytes(content.read())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
