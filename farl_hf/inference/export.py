"""
Models as ONNX files and `torch.export` programs, with the whole way from `pixel_values` to the answer inside: labels
from logits, landmarks from heat maps. The batch (and the captions' number and length) may vary, the image size is the
model's.
"""

from pathlib import Path

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from ..models.modeling_farl import (
    FaRLDualEncoder,
    FaRLForFaceAlignment,
    FaRLForFaceParsing,
    FaRLForImageClassification,
    FaRLPreTrainedModel,
)


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
        return (outputs.logits.argmax(dim=1),) if name == "labels" else (outputs[name],)


def exportable(model: FaRLPreTrainedModel, argmax: bool = False) -> tuple[nn.Module, dict[str, torch.Tensor], dict]:
    """
    What is exported: a module of tensors in and out, example inputs, and which of their sizes may vary.

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
    model.eval()
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
        model: See [`exportable`].
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


@torch.no_grad()
def onnx_difference(model: FaRLPreTrainedModel, path: str | Path, argmax: bool = False, batch: int = 3) -> float:
    """
    Largest difference of an ONNX file's outputs in onnxruntime from the model's, relative to the largest value, on
    random input of another batch size than the export's; of labels, the share of pixels that differ.
    """
    import onnxruntime

    module, inputs, _ = exportable(model, argmax)
    generator = torch.Generator().manual_seed(0)
    inputs["pixel_values"] = torch.randn(batch, *inputs["pixel_values"].shape[1:], generator=generator)
    expected = module(**inputs)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(list(module.output_names), {name: value.numpy() for name, value in inputs.items()})
    if argmax:
        return float((torch.from_numpy(found[0]) != expected[0]).float().mean())
    return max(
        float((torch.from_numpy(ours) - reference).abs().max() / reference.abs().max())
        for ours, reference in zip(found, expected, strict=True)
    )
