"""Suites of the networks: parsing, alignment, clip, pipeline, memory."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import open_clip
import torch
from PIL import Image
from torch import nn
from transformers import CLIPModel

from farl_hf.conversion.checkpoints import openai_state_dict
from farl_hf.finetuning.lora import add_adapter
from farl_hf.finetuning.tasks import ParsingTask
from farl_hf.inference.detection import YuNetDetector
from farl_hf.inference.export import export_int8_onnx, export_onnx
from farl_hf.inference.optimization import EnlargingConv, fold_batch_norm, optimize_for_inference
from farl_hf.inference.pipelines import FaceParsingPipeline
from farl_hf.models.configuration_farl import FaRLConfig
from farl_hf.models.geometry_farl import landmarks_from_heatmaps, pixel_centre
from farl_hf.models.image_processing_farl import FaRLFaceImageProcessor
from farl_hf.models.modeling_farl import FaRLForFaceAlignment, FaRLForFaceParsing, FaRLModel
from farl_hf.weights import pretrained

from .measuring import Case
from .reference import PlainDenseModel, PlainFusion, with_plain_head


@dataclass(frozen=True)
class Scale:
    """
    Sizes of the models and inputs.

    Args:
        preset: Of [`FaRLConfig.from_preset`].
        dense_size: Input of parsing and alignment, in pixels.
        clip_size: Input of the dual encoder.
        photo: (width, height) of the photo in the suite `pipeline`.
    """

    preset: str = "base"
    dense_size: int = 448
    clip_size: int = 224
    photo: tuple[int, int] = (4000, 3000)


QUICK = Scale("tiny", 96, 96, (800, 600))

Function = Callable[[], Any]


def seeded_dense_model(model_class: type, scale: Scale, **fields: Any) -> nn.Module:
    """A model of random weights and random running statistics, the same ones each time."""
    torch.manual_seed(0)
    labels = {"num_labels": 11, "output_size": 512} if model_class is FaRLForFaceParsing else {"num_landmarks": 68}
    config = FaRLConfig.from_preset(scale.preset, image_size=scale.dense_size, **labels, **fields)
    model = model_class(config)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def _no_grad(function: Function) -> Function:
    return torch.inference_mode()(function)


# ------------------------------------------------------------------------------------------------ parsing, alignment


def dense_cases(suite: str, scale: Scale) -> Iterator[Case]:
    """Forward passes against the plain network, and single layers and training steps of parsing."""
    model_class = FaRLForFaceParsing if suite == "parsing" else FaRLForFaceAlignment
    for batch in (1, 4):
        name = f"forward {scale.dense_size} px, batch {batch}"
        yield Case(suite, name, partial(_forward, model_class, scale, batch, True), goal=2.0)
        yield Case(suite, f"{name}, not optimised", partial(_forward, model_class, scale, batch, False))
    name = f"forward {scale.dense_size} px, batch 1"
    # Rounding to 8 bits of significand, or of everything: told, and not a mistake.
    yield Case(suite, f"{name}, bf16 autocast", partial(_bf16_forward, model_class, scale), tolerance=0.2)
    for kind, tolerance in (("as it is", 1e-4), ("optimised", 1e-4), ("int8", 0.5)):
        function = partial(_onnx_forward, model_class, scale, kind)
        yield Case(suite, f"{name}, in onnxruntime, {kind}", function, tolerance=tolerance)
    if suite == "parsing":
        yield Case(suite, "fusion layer", partial(_fusion, scale, "fpn_bottleneck", True), goal=2.3)
        yield Case(suite, "fusion layer, not optimised", partial(_fusion, scale, "fpn_bottleneck", False))
        yield Case(suite, "pyramid pooling fusion", partial(_fusion, scale, "bottleneck", True))
        for tuning, goal in (("full", 1.4), ("frozen", 1.5), ("lora", 1.5)):
            name = f"training step, {tuning}, batch 2"
            yield Case(suite, name, partial(_training_step, scale, tuning), tolerance=1e-3, goal=goal)


def memory_cases(scale: Scale) -> Iterator[Case]:
    """Peak memory of inference and of training steps."""
    forward = partial(_forward, FaRLForFaceParsing, scale, 4, True)
    yield Case("memory", f"parsing {scale.dense_size} px, batch 4", forward, timed=False, memory=True)
    for tuning in ("full", "frozen", "lora"):
        step = partial(_training_step, scale, tuning)
        yield Case("memory", f"parsing training step, {tuning}, batch 2", step, timed=False, memory=True)


def _forward(model_class: type, scale: Scale, batch: int, optimized: bool, side: str) -> Function:
    model = seeded_dense_model(model_class, scale)
    pixel_values = torch.randn(batch, 3, scale.dense_size, scale.dense_size)
    if side == "reference":
        plain = PlainDenseModel(model).eval()
        return _no_grad(lambda: plain(pixel_values))
    network = optimize_for_inference(model) if optimized else model
    output = "logits" if model_class is FaRLForFaceParsing else "heatmaps"
    return _no_grad(lambda: network(pixel_values=pixel_values)[output])


def _bf16_forward(model_class: type, scale: Scale, side: str) -> Function:
    function = _forward(model_class, scale, 1, False, side)
    if side == "reference":
        return function

    def autocast() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return function()

    return lambda: autocast().float()


def _onnx_forward(model_class: type, scale: Scale, kind: str, side: str) -> Function:
    model = seeded_dense_model(model_class, scale)
    pixel_values = torch.randn(1, 3, scale.dense_size, scale.dense_size)
    if side == "reference":
        plain = PlainDenseModel(model).eval()
        if model_class is FaRLForFaceParsing:
            return _no_grad(lambda: plain(pixel_values))
        # The exported model decodes its heat maps.
        return _no_grad(lambda: landmarks_from_heatmaps(plain(pixel_values).sigmoid()))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        if kind == "int8":
            export_int8_onnx(model, path, torch.randn(4, *pixel_values.shape[1:]))
        else:
            export_onnx(optimize_for_inference(model) if kind == "optimised" else model, path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: torch.from_numpy(session.run(None, {"pixel_values": pixel_values.numpy()})[0])


def _fusion(scale: Scale, layer: str, optimized: bool, side: str) -> Function:
    model = seeded_dense_model(FaRLForFaceParsing, scale)
    head, tokens = model.decode_head, scale.dense_size // model.config.vision_config.patch_size
    fusion = getattr(head, layer)
    if layer == "fpn_bottleneck":
        sides, channels = [4 * tokens, 2 * tokens, tokens, tokens // 2], [head.conv_seg.in_channels] * 4
    else:
        sides = [tokens // 2, *model.config.pool_scales]
        channels = [model.config.vision_config.hidden_size] + [head.conv_seg.in_channels] * len(
            model.config.pool_scales
        )
    torch.manual_seed(1)
    maps = [torch.randn(1, width, size, size) for width, size in zip(channels, sides, strict=True)]
    if side == "reference":
        plain = PlainFusion(fusion)
        return _no_grad(lambda: plain(maps))
    if not optimized:
        return _no_grad(lambda: fusion(maps))
    with torch.no_grad():
        fast = EnlargingConv(*fold_batch_norm(fusion), in_channels=channels)
    # Channels come last in the optimised head.
    maps = [m.permute(0, 2, 3, 1).contiguous() for m in maps]
    return _no_grad(lambda: fast(maps).relu_().permute(0, 3, 1, 2))


def _training_step(scale: Scale, tuning: str, side: str, batch: int = 2) -> Function:
    model = seeded_dense_model(FaRLForFaceParsing, scale)
    if side == "reference":
        model = with_plain_head(model)
    if tuning == "frozen":
        model.vision_model.requires_grad_(False)
    elif tuning == "lora":
        model.name_or_path = "farl-base"
        model = add_adapter(model, ParsingTask.head_modules)
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    torch.manual_seed(1)
    size = scale.dense_size
    pixel_values, labels = torch.randn(batch, 3, size, size), torch.randint(0, 11, (batch, size, size))

    def step() -> torch.Tensor:
        # The same dropout on both sides.
        torch.manual_seed(2)
        optimizer.zero_grad()
        loss = model(pixel_values=pixel_values, labels=labels).loss
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


# --------------------------------------------------------------------------------------------------------------- clip


def clip_cases(scale: Scale) -> Iterator[Case]:
    """The two towers against Transformers' `CLIPModel` and open_clip, on the same weights."""
    for library in ("CLIPModel", "open_clip"):
        for batch in (1, 8):
            name = f"image encoder {scale.clip_size} px, batch {batch}, against {library}"
            yield Case("clip", name, partial(_image_encoder, scale, batch, library, True), goal=1.0)
            if batch == 8:
                yield Case(
                    "clip", f"{name}, not optimised", partial(_image_encoder, scale, batch, library, False), goal=1.0
                )
        name = f"text encoder, batch 8, against {library}"
        yield Case("clip", name, partial(_text_encoder, scale, library), goal=1.0)


def seeded_dual_encoder(scale: Scale) -> FaRLModel:
    """A dual encoder of random weights, the same ones each time."""
    torch.manual_seed(0)
    return FaRLModel(FaRLConfig.from_preset(scale.preset, image_size=scale.clip_size)).eval()


def clip_model(model: FaRLModel) -> CLIPModel:
    """Transformers' class with the weights of ours."""
    from transformers import CLIPConfig

    parts = {}
    for name in ("vision_config", "text_config"):
        parts[name] = getattr(model.config, name).to_dict()
        parts[name].pop("model_type")
    clip = CLIPModel(CLIPConfig(**parts, projection_dim=model.config.projection_dim)).eval()
    clip.load_state_dict(model.state_dict(), strict=False)
    return clip


def open_clip_model(model: FaRLModel) -> nn.Module:
    """open_clip's class with the weights of ours."""
    vision, text = model.config.vision_config, model.config.text_config
    network = open_clip.CLIP(
        embed_dim=model.config.projection_dim,
        vision_cfg={
            "image_size": vision.image_size,
            "layers": vision.num_hidden_layers,
            "width": vision.hidden_size,
            "head_width": vision.hidden_size // vision.num_attention_heads,
            "patch_size": vision.patch_size,
        },
        text_cfg={
            "width": text.hidden_size,
            "heads": text.num_attention_heads,
            "layers": text.num_hidden_layers,
        },
        quick_gelu=True,
    )
    network.load_state_dict(openai_state_dict(model.state_dict(), model.config), strict=False)
    return network.eval()


def example_captions(model: FaRLModel, count: int) -> torch.Tensor:
    """(count, 77) token ids: 20 random words, the end token, and padding with zeros."""
    torch.manual_seed(1)
    input_ids = torch.zeros(count, 77, dtype=torch.int64)
    input_ids[:, 0] = model.config.text_config.bos_token_id
    input_ids[:, 1:21] = torch.randint(1000, 40000, (count, 20))
    input_ids[:, 21] = model.config.text_config.eos_token_id
    return input_ids


def _image_encoder(scale: Scale, batch: int, library: str, optimized: bool, side: str) -> Function:
    model = seeded_dual_encoder(scale)
    torch.manual_seed(1)
    pixel_values = torch.randn(batch, 3, scale.clip_size, scale.clip_size)
    if side == "reference":
        if library == "open_clip":
            network = open_clip_model(model)
            return _no_grad(lambda: network.encode_image(pixel_values))
        network = clip_model(model)
    else:
        network = optimize_for_inference(model) if optimized else model
    return _no_grad(lambda: network.get_image_features(pixel_values=pixel_values).pooler_output)


def _text_encoder(scale: Scale, library: str, side: str) -> Function:
    model = seeded_dual_encoder(scale)
    input_ids = example_captions(model, 8)
    if side == "reference":
        if library == "open_clip":
            network = open_clip_model(model)
            return _no_grad(lambda: network.encode_text(input_ids))
        network = clip_model(model)
    else:
        network = optimize_for_inference(model)
    return _no_grad(lambda: network.get_text_features(input_ids=input_ids).pooler_output)


# ----------------------------------------------------------------------------------------------------------- pipeline


def pipeline_cases(scale: Scale, faces: int = 10, photos: int = 16) -> Iterator[Case]:
    """
    What a photo with many faces costs before and after the network: "reference" is the optimised network itself on all
    its faces, so the ratio is how many times the step is cheaper. And many photos of one face through `face-parsing`:
    "reference" is the detector on each and the network on the same crops, without all that is around them.
    """
    for name in ("random weights", "farl-tiny"):
        case = f"{photos} photos through face-parsing, {name}, against detector and network"
        # At most 1.15 times as slow.
        yield Case("pipeline", case, partial(_many_photos, scale, photos, name), tolerance=None, goal=1 / 1.15)
    for name in ("cropping", "post-processing"):
        case = f"{name} of {faces} faces in {scale.photo[0]} x {scale.photo[1]} px against the network"
        # Under 15 % of the network's time.
        yield Case("pipeline", case, partial(_around_network, scale, faces, name), tolerance=None, goal=1 / 0.15)


def _many_photos(scale: Scale, count: int, weights: str, side: str) -> Function:
    import skimage.data

    if weights == "farl-tiny":
        folder = pretrained("farl-tiny-parsing")
        processor, model = FaRLFaceImageProcessor.from_pretrained(folder), FaRLForFaceParsing.from_pretrained(folder)
    else:
        processor = FaRLFaceImageProcessor(align="lapa", size=scale.dense_size, warp_factor=0.8)
        model = seeded_dense_model(FaRLForFaceParsing, scale)
    network, detector = optimize_for_inference(model.eval()), YuNetDetector()
    photos = [np.roll(skimage.data.astronaut(), i, axis=1) for i in range(count)]
    if side == "ours":
        options = {"task": "face-parsing", "detector": detector, "device": "cpu"}
        pipe = FaceParsingPipeline(network, image_processor=processor, **options)
        return lambda: pipe(photos, batch_size=8)
    points = [detector.detect(Image.fromarray(photo)).points + pixel_centre(processor.convention) for photo in photos]
    crops = processor(photos, face_points=points)["pixel_values"]

    def detect_and_predict() -> list[torch.Tensor]:
        for photo in photos:
            detector.detect(Image.fromarray(photo))
        return [network(batch).logits for batch in crops.split(8)]

    return _no_grad(detect_and_predict)


def _around_network(scale: Scale, faces: int, step: str, side: str) -> Function:
    width, height = scale.photo
    processor = FaRLFaceImageProcessor(align="lapa", size=scale.dense_size, warp_factor=0.8)
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
    # Eyes, nose tip and mouth corners of faces of about a ninth of the photo's height.
    shape = np.array([[-1, -1], [1, -1], [0, 0], [-0.8, 1], [0.8, 1]]) * height / 27
    centres = rng.uniform((0.1 * width, 0.1 * height), (0.9 * width, 0.9 * height), (faces, 1, 2))
    points = (centres + shape).astype(np.float32)
    inputs = processor(photo, face_points=points)
    if side == "reference":
        network = optimize_for_inference(seeded_dense_model(FaRLForFaceParsing, scale))
        return _no_grad(lambda: network(inputs["pixel_values"]).logits)
    if step == "cropping":
        return lambda: processor(photo, face_points=points)["pixel_values"]
    torch.manual_seed(0)
    # Noise in the middle, and background around it, as faces have: the warped crop's border is the whole photo's.
    logits = nn.functional.interpolate(torch.randn(faces, 11, 16, 16), (512, 512), mode="bilinear")
    axis = torch.linspace(-1, 1, 512)
    logits[:, 0] += 20.0 * (axis.square()[:, None] + axis.square() > 0.6)
    outputs = SimpleNamespace(logits=logits)
    return lambda: processor.post_process_semantic_segmentation(outputs, inputs["face_transforms"])
