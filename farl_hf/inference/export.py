"""
Models as ONNX files and `torch.export` programs, with the whole way from `pixel_values` to the answer inside: labels
from logits, landmarks from heat maps. The batch (and the captions' number and length) may vary, the image size is the
model's. ONNX files may be of the network as it is, of its faster copy ([`optimize_for_inference`]), or of 8-bit
integers ([`export_int8_onnx`]).
"""

import contextlib
import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.fx.traceback import NodeSource

from ..models.geometry_farl import landmarks_from_heatmaps
from ..models.modeling_farl import (
    FaRLDualEncoder,
    FaRLForFaceAlignment,
    FaRLForFaceParsing,
    FaRLForImageClassification,
    FaRLPreTrainedModel,
)
from .optimization import optimize_for_inference

# Largest difference from the model's own answer that an export may have: relative to the largest value, and 0.01 pixel
# of a 448 px image for landmarks; of labels, the share of pixels with another class.
TOLERANCE = 1e-4
LANDMARK_TOLERANCE = 0.01 / 448
LABEL_TOLERANCE = 1e-3


class _ImageAndText(nn.Module):
    output_names = ("image_embeds", "text_embeds", "logits_per_image")

    def __init__(self, model: FaRLDualEncoder):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor, input_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        image = self.model.get_image_features(pixel_values).pooler_output
        text = self.model.get_text_features(input_ids).pooler_output
        image, text = (nn.functional.normalize(features, dim=-1) for features in (image, text))
        return image, text, self.model.logit_scale.exp() * image @ text.t()


class _Image(nn.Module):
    """A task model with one answer: `logits`, `labels` (the classes' arg-max) or `landmarks`."""

    def __init__(self, model: nn.Module, name: str):
        super().__init__()
        self.model, self.output_names = model, (name,)

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor]:
        (name,) = self.output_names
        outputs = self.model(pixel_values=pixel_values)
        if name == "labels":
            return (outputs.logits.argmax(dim=1),)
        if name == "landmarks":
            # onnxruntime's Sigmoid is coarse and becomes 0 below -18, where all of the background's mass lies: its
            # landmarks are off by 0.02 pixel at 448 px. Its Exp is not.
            return (landmarks_from_heatmaps(1 / (1 + (-outputs.heatmaps.float()).exp())),)
        return (outputs[name],)


@contextlib.contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; every module's own mode afterwards."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode


def exportable(model: FaRLPreTrainedModel, argmax: bool = False) -> tuple[nn.Module, dict[str, torch.Tensor], dict]:
    """
    What is exported: a module of tensors in and out, example inputs, and which of their sizes may vary. The model stays
    in its mode: bring it into evaluation mode to run the module.

    Args:
        model: Dual encoder (`FaRLModel`, `FaRLForPreTraining`: `pixel_values`, `input_ids` to `image_embeds`,
            `text_embeds` of unit length and `logits_per_image`), parsing (`logits`, or `labels`), alignment
            (`landmarks`, normalised) or classification (`logits`).
        argmax: Class ids (batch, height, width) int64 in the place of a parsing model's logits.

    Raises:
        ValueError: If the model is of another kind, or has no classes to take the arg-max of.
    """
    if argmax and not isinstance(model, FaRLForFaceParsing):
        raise ValueError(f"argmax is of face parsing: {type(model).__name__} has no label map.")
    size = model.config.image_size
    inputs = {"pixel_values": torch.zeros(2, 3, size, size, device=model.device)}
    shapes: dict[str, dict] = {"pixel_values": {0: Dim("images", max=4096)}}
    if isinstance(model, FaRLDualEncoder):
        length = model.config.text_config.max_position_embeddings
        input_ids = torch.zeros(3, 16, dtype=torch.int64, device=model.device)
        input_ids[:, -1] = model.config.text_config.eos_token_id
        shapes["input_ids"] = {0: Dim("texts", max=4096), 1: Dim("length", min=2, max=length)}
        return _ImageAndText(model), {**inputs, "input_ids": input_ids}, shapes
    if isinstance(model, FaRLForFaceParsing):
        return _Image(model, "labels" if argmax else "logits"), inputs, shapes
    if isinstance(model, FaRLForFaceAlignment):
        return _Image(model, "landmarks"), inputs, shapes
    if isinstance(model, FaRLForImageClassification):
        return _Image(model, "logits"), inputs, shapes
    raise ValueError(f"{type(model).__name__} cannot be exported: give a dual encoder or a task model.")


@torch.no_grad()
def export_program(model: FaRLPreTrainedModel, path: str | Path | None = None, argmax: bool = False) -> ExportedProgram:
    """
    The model as a `torch.export` program; `torch.export.load(path).module()` runs without this package.

    Args:
        model: See [`exportable`].
        path: `.pt2` file to write, if any.
        argmax: See [`exportable`].
    """
    module, inputs, shapes = exportable(model, argmax)
    with _evaluation_mode(module):
        program = torch.export.export(module, (), kwargs=inputs, dynamic_shapes=shapes)
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        torch.export.save(program, str(path))
    return program


@torch.no_grad()
def export_onnx(model: FaRLPreTrainedModel, path: str | Path, argmax: bool = False) -> Path:
    """
    The model as an ONNX file, weights inside. Needs the extra `export`.

    Args:
        model: See [`exportable`]; or the copy that [`optimize_for_inference`] makes of it, for a faster file with the
            same numbers up to rounding.
        path: `.onnx` file to write.
        argmax: See [`exportable`].

    Raises:
        ImportError: If the packages of the extra are not installed.
    """
    try:
        import onnxscript  # noqa: F401 (torch's exporter needs it)
    except ImportError:
        raise ImportError("Writing ONNX needs more packages: pip install 'farl_hf[export]'.") from None
    module, inputs, shapes = exportable(model, argmax)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _evaluation_mode(module):
        program = torch.onnx.export(
            module,
            (),
            kwargs=inputs,
            dynamic_shapes=shapes,
            output_names=list(module.output_names),
            dynamo=True,
            verbose=False,
        )
    program.save(path, external_data=False)
    return path


def export_int8_onnx(
    model: FaRLPreTrainedModel, path: str | Path, pixel_values: torch.Tensor, argmax: bool = False
) -> Path:
    """
    A task model as an ONNX file whose matrix products and convolutions, those of neck and head included, multiply 8-bit
    integers: weights rounded per output channel, activations in ranges that are measured once, on the given faces. Fast
    where the CPU has VNNI. Measure its cost in accuracy on your own data.

    Args:
        model: Face parsing, alignment or classification, in fp32.
        path: `.onnx` file to write.
        pixel_values: (faces, 3, height, width) CLIP-normalised crops to measure on, such as a processor's of 32 photos.
        argmax: See [`exportable`].

    Raises:
        ImportError: If the packages of the extra `export` are not installed.
        ValueError: If the model is a dual encoder, or there are no faces.
    """
    if isinstance(model, FaRLDualEncoder):
        raise ValueError("export_int8_onnx takes a task model: calibrating a dual encoder needs captions too.")
    if len(pixel_values) == 0:
        raise ValueError("pixel_values is empty: give some face crops to measure activations on.")
    try:
        from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError:
        raise ImportError("Writing int8 ONNX needs onnxruntime: pip install 'farl_hf[export]'.") from None

    class Faces(CalibrationDataReader):
        def __init__(self) -> None:
            self.faces = iter(pixel_values.float().cpu().split(1))

        def get_next(self) -> dict | None:
            face = next(self.faces, None)
            return None if face is None else {"pixel_values": face.numpy()}

    path = Path(path)
    with tempfile.TemporaryDirectory() as scratch:
        plain, folded = Path(scratch) / "plain.onnx", Path(scratch) / "folded.onnx"
        # The copy has linear layers and 3x3 convolutions alone, batch norms folded; transposed convolutions have no
        # 8-bit kernel in onnxruntime.
        export_onnx(optimize_for_inference(model, winograd=False), plain, argmax)
        quant_pre_process(plain, folded, skip_symbolic_shape=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        quantize_static(
            folded,
            path,
            Faces(),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            # What reads a product (bias, softmax, GELU, sums) works in fp32: rounding the product in between costs a
            # tenth of the time, and accuracy.
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]},
        )
    return path


def export_openvino(model: FaRLPreTrainedModel, path: str | Path) -> Path:
    """
    A task model for OpenVINO, through Transformers' exporter. Needs the extra `openvino`.

    On CPUs with bf16 instructions OpenVINO computes in bf16 unless it is compiled with `INFERENCE_PRECISION_HINT` f32:
    logits are then within 1e-6 of the model's, else within 1e-2.

    Args:
        model: Face parsing, alignment or classification. All its outputs are in the file, under their names.
        path: `.xml` file to write; the weights are put beside it.

    Raises:
        ImportError: If openvino is not installed.
    """
    try:
        import openvino
        from transformers.exporters import OpenVINOConfig, OpenVINOExporter
    except ImportError:
        raise ImportError("Writing OpenVINO files needs it: pip install 'farl_hf[openvino]'.") from None
    _, inputs, _ = exportable(model)
    # Transformers' exporter takes the model itself, whose other inputs are optional.
    shapes = {"pixel_values": {0: Dim.AUTO}}
    with _evaluation_mode(model):
        exported = OpenVINOExporter().export(model, inputs, config=OpenVINOConfig(dynamic_shapes=shapes))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    openvino.save_model(exported.program, path, compress_to_fp16=False)
    return path


@contextlib.contextmanager
def _shared_provenance() -> Iterator[None]:
    """
    Each of ExecuTorch's passes notes at each node where it came from, with a deep copy of all notes before: most of the
    time that a deep network takes. Nobody changes a note, so that for a while they are shared.
    """
    NodeSource.__deepcopy__ = lambda source, memo: source
    try:
        yield
    finally:
        del NodeSource.__deepcopy__


def export_executorch(model: FaRLPreTrainedModel, path: str | Path) -> Path:
    """
    A task model for ExecuTorch (phones, edge devices), through Transformers' exporter: fp32, XNNPACK's kernels, one
    image at a time. Needs the package `executorch`, and for small dense models a minute of a core. On a desktop's CPU
    slower than PyTorch: what XNNPACK does not take (resized maps, transposed convolutions) runs on portable kernels.

    Args:
        model: Face parsing, alignment or classification. All its outputs are in the file, in their order.
        path: `.pte` file to write.

    Raises:
        ImportError: If executorch is not installed.
    """
    try:
        from executorch.runtime import Runtime  # noqa: F401 (Transformers' exporter asks for it later)
        from transformers.exporters import ExecutorchConfig, ExecutorchExporter
    except ImportError:
        raise ImportError("Writing ExecuTorch files needs it: pip install executorch==1.5.1.") from None
    size = model.config.image_size
    inputs = {"pixel_values": torch.zeros(1, 3, size, size)}
    # The exporter freezes what it is given, and moves it to the CPU.
    with _shared_provenance():
        exported = ExecutorchExporter().export(copy.deepcopy(model).eval(), inputs, config=ExecutorchConfig())
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        exported.program.write_to_file(file)
    return path


@torch.no_grad()
def onnx_difference(
    model: FaRLPreTrainedModel,
    path: str | Path,
    argmax: bool = False,
    batch: int = 3,
    pixel_values: torch.Tensor | None = None,
) -> float:
    """
    Largest difference of an ONNX file's outputs in onnxruntime from the model's, relative to the largest value; of
    landmarks, as a share of the image's side; of labels, the share of pixels that differ.

    Args:
        model: The model that was exported, not its optimised copy.
        path: The file.
        argmax: As it was exported.
        batch: Images of noise, of another number than the export's.
        pixel_values: Images in the place of noise.
    """
    import onnxruntime

    module, inputs, _ = exportable(model, argmax)
    if pixel_values is None:
        generator = torch.Generator().manual_seed(0)
        pixel_values = torch.randn(batch, *inputs["pixel_values"].shape[1:], generator=generator)
    inputs["pixel_values"] = pixel_values.to(model.device)
    with _evaluation_mode(module):
        expected = [output.cpu() for output in module(**inputs)]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(list(module.output_names), {name: value.cpu().numpy() for name, value in inputs.items()})
    if argmax:
        return float((torch.from_numpy(found[0]) != expected[0]).float().mean())
    if module.output_names == ("landmarks",):
        return float((torch.from_numpy(found[0]) - expected[0]).abs().max())
    return max(
        float((torch.from_numpy(ours) - reference).abs().max() / reference.abs().max())
        for ours, reference in zip(found, expected, strict=True)
    )


def tolerance(model: FaRLPreTrainedModel, argmax: bool = False) -> float:
    """What [`onnx_difference`] may be at most for a file that is not rounded to 8 bits."""
    if argmax:
        return LABEL_TOLERANCE
    return LANDMARK_TOLERANCE if isinstance(model, FaRLForFaceAlignment) else TOLERANCE
