"""Processor of the dual encoder: images and captions in, model inputs out."""

from transformers import ProcessorMixin


class FaRLProcessor(ProcessorMixin):
    """
    An image processor and CLIP's tokenizer in one. `processor(images=..., text=...)` returns `pixel_values` (images, 3,
    image_size, image_size), `input_ids` (texts, length) and `attention_mask` (texts, length), equal to those of the
    processor of openai/clip-vit-base-patch16.

    Args:
        image_processor: A [`FaRLImageProcessor`] or [`FaRLImageProcessorPil`].
        tokenizer: A `CLIPTokenizer`.
    """

    def __init__(self, image_processor=None, tokenizer=None, **kwargs):
        super().__init__(image_processor, tokenizer)


__all__ = ["FaRLProcessor"]
