"""Folders as version 0.1 wrote them: their JSON files, names and shapes of their weights, and what came out."""

import torch

FOLDERS = (
    "FaRLModel",
    "FaRLForPreTraining",
    "FaRLForFaceParsing",
    "FaRLForFaceAlignment",
    "FaRLForImageClassification",
)


def filled(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Weights that are a function of their place, variances positive."""
    tensors = {}
    for number, (name, shape) in enumerate(sorted(shapes.items())):
        count = torch.Size(shape).numel()
        values = 0.2 * torch.sin(0.37 * torch.arange(count, dtype=torch.float64) + number)
        if "num_batches_tracked" in name:
            values = torch.ones(count, dtype=torch.int64)
        elif name.endswith("running_var") or ("norm" in name and name.endswith("weight")):
            values = values + 1
        tensors[name] = values.reshape(shape).to(torch.int64 if "num_batches" in name else torch.float32)
    return tensors


def numbers(model: torch.nn.Module) -> list[float]:
    """Eight values of the first output, for an image and a caption that never change."""
    pixels = torch.sin(torch.arange(3 * 32 * 32) * 0.11).reshape(1, 3, 32, 32)
    inputs = {"pixel_values": pixels}
    if hasattr(model, "text_model"):
        inputs["input_ids"] = torch.tensor([[49406, 320, 1125, 49407]])
    with torch.no_grad():
        outputs = model.eval()(**inputs)
    answer = next(outputs[name] for name in ("landmarks", "logits", "image_embeds") if outputs.get(name) is not None)
    return answer.flatten()[:: max(1, answer.numel() // 8)][:8].tolist()
