"""Image processors: CLIP's for whole images, and aligned face crops with the way back to the photo."""

from transformers import CLIPImageProcessor, CLIPImageProcessorPil


class FaRLImageProcessor(CLIPImageProcessor):
    """
    Images for the dual encoder: `pixel_values` (batch, 3, 224, 224), float32, with the defaults and the numbers of the
    processor of openai/clip-vit-base-patch16. Uses torchvision; without it Transformers falls back to Pillow.
    """


class FaRLImageProcessorPil(CLIPImageProcessorPil):
    """[`FaRLImageProcessor`] on Pillow: bit-equal to OpenAI's own transform, and the faster one on a CPU."""


__all__ = ["FaRLImageProcessor", "FaRLImageProcessorPil"]
