"""Processor of the dual encoder: images and captions in, model inputs out."""

from transformers import ProcessorMixin

from .image_processing_farl import FaRLFaceImageProcessor

_HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


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

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """
        As `ProcessorMixin.from_pretrained`. The folder of a task model has no tokenizer: there it is its
        [`FaRLFaceImageProcessor`], which `AutoProcessor` asks for here because both kinds of folder have one config.
        """
        hub_arguments = {name: kwargs[name] for name in _HUB_ARGUMENTS if name in kwargs}
        try:
            stored, _ = FaRLFaceImageProcessor.get_image_processor_dict(pretrained_model_name_or_path, **hub_arguments)
        except OSError:
            stored = {}
        if stored.get("image_processor_type") == FaRLFaceImageProcessor.__name__:
            return FaRLFaceImageProcessor.from_pretrained(pretrained_model_name_or_path, **hub_arguments)
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)


__all__ = ["FaRLProcessor"]
