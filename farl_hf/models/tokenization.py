"""CLIP's tokenizer and the processor of a fresh model, built without a download."""

import gzip
from functools import cache
from pathlib import Path

from transformers import CLIPTokenizer

from .image_processing_farl import FaRLImageProcessor
from .processing_farl import FaRLProcessor

# The 48,894 merges that CLIP uses of its `bpe_simple_vocab_16e6.txt.gz` (OpenAI, MIT licence, see LICENSE), as the
# open-clip-torch package distributes it.
MERGES_FILE = Path(__file__).with_name("clip_merges.txt.gz")


def build_clip_tokenizer(vocab_size: int = 49408) -> CLIPTokenizer:
    """
    The tokenizer of openai/clip-vit-base-patch16: 49,408 lower-case byte-pair tokens, 77 at most in a text, start token
    49406, end and padding token 49407.

    Captions are taken as they are. OpenAI's own code first repairs mojibake (`ftfy`) and unescapes HTML entities; do
    that once, when you make a data set. As in Transformers' tokenizer a capital sigma becomes a middle one at a word's
    end too, where Python's lower case has the final form.

    Args:
        vocab_size: Less than 49,408 keeps only the most frequent merges, for small models: rare words are then read in
            shorter pieces, and the start and end tokens are the last two.

    Raises:
        ValueError: If the size is below 514 (bytes and the two special tokens) or above 49,408.
    """
    merges = _merges()
    if not 514 <= vocab_size <= 514 + len(merges):
        raise ValueError(f"vocab_size is {vocab_size}: it lies between 514 and {514 + len(merges):,}.")
    merges = merges[: vocab_size - 514]
    # Printable Latin-1 characters stand for themselves, the other 68 bytes for the characters from 256 on.
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    symbols = [chr(code) for code in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    tokens = symbols + [f"{symbol}</w>" for symbol in symbols] + ["".join(pair) for pair in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=list(merges), model_max_length=77)


@cache
def _merges() -> tuple[tuple[str, str], ...]:
    lines = gzip.decompress(MERGES_FILE.read_bytes()).decode().splitlines()
    pairs = (line.split(" ") for line in lines)
    return tuple((first, second) for first, second in pairs)


def build_processor(image_size: int = 224, vocab_size: int = 49408) -> FaRLProcessor:
    """
    The [`FaRLProcessor`] of a dual encoder for square images of `image_size` pixels: CLIP's resize of the shortest edge
    (bicubic), centre crop, mean and standard deviation. For `vocab_size` see [`build_clip_tokenizer`].
    """
    image_processor = FaRLImageProcessor(
        size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size}
    )
    return FaRLProcessor(image_processor, build_clip_tokenizer(vocab_size))
