"""Label maps as people have them: grey, palette and 1-bit images of class ids, and images of colours."""

from collections.abc import Sequence

import numpy as np
from PIL import Image


def parse_colours(colours: Sequence[str]) -> list[tuple[int, int, int]]:
    """
    (red, green, blue) of 0..255 from hexadecimal `"ff0000"`, with or without `#`.

    Raises:
        ValueError: If a colour is malformed or stands twice.
    """
    table = []
    for text in colours:
        digits = text.removeprefix("#")
        try:
            red, green, blue = bytes.fromhex(digits)
        except ValueError:
            raise ValueError(f"The colour {text!r} is not six hexadecimal digits such as ff0000.") from None
        if (red, green, blue) in table:
            raise ValueError(f"The colour {text!r} stands for two classes.")
        table.append((red, green, blue))
    return table


def read_label_map(
    image: Image.Image | np.ndarray, colours: Sequence[tuple[int, int, int]] | None = None
) -> np.ndarray:
    """
    Class ids of a label map.

    Args:
        image: Grey levels or palette indices are the ids, a 1-bit image has 0 and 1; or RGB.
        colours: (red, green, blue) of each id, for RGB images. Without them the three channels must be equal, and are
            the ids.

    Returns:
        (height, width) integers.

    Raises:
        ValueError: If the image is in colours without a table, or holds a colour that the table lacks.
    """
    if isinstance(image, Image.Image) and image.mode in ("RGBA", "LA", "CMYK", "YCbCr"):
        image = image.convert("L" if image.mode == "LA" else "RGB")
    labels = np.array(image)
    if labels.ndim == 2 and labels.dtype == bool:
        return labels.astype(np.uint8)
    if labels.ndim == 2:
        return labels
    if labels.ndim != 3 or labels.shape[2] != 3:
        raise ValueError(f"the label map has shape {labels.shape}: it must be an image of class ids or of colours.")
    if colours is None:
        if not (labels[..., :1] == labels).all():
            raise ValueError("the label map is in colours: say which class each stands for (colours, --colours).")
        return labels[..., 0]
    keys = labels.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.int32)
    table = np.array([(red << 16) + (green << 8) + blue for red, green, blue in colours], dtype=np.int32)
    order = table.argsort()
    found = order[np.searchsorted(table, keys, sorter=order).clip(max=len(table) - 1)]
    if (unknown := table[found] != keys).any():
        y, x = np.argwhere(unknown)[0].tolist()
        raise ValueError(f"the label map has the colour {keys[y, x]:06x} at ({x}, {y}), which stands for no class.")
    return found.astype(np.uint8)
