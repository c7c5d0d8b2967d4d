"""Generated faces as a `datasets` data set."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..datasets.labels import CELEBA_ATTRIBUTES
from .config import SyntheticFaceConfig
from .faces import SyntheticFace, render_faces

if TYPE_CHECKING:
    import datasets

# Pictures of a shard of the stream: what workers share out among them.
_SHARD = 16
_SET_SIZE = 1_000_000
_LAYOUTS = (5, 19, 68, 98, 106)


def load_synthetic(
    length: int,
    config: SyntheticFaceConfig | None = None,
    seed: int = 0,
    *,
    streaming: bool = True,
    num_proc: int | None = None,
) -> "datasets.IterableDataset | datasets.Dataset":
    """
    A set of generated faces; row `i` is the picture of seed `seed * 1,000,000 + i`.

    Args:
        length: Number of rows, 1 to a million.
        config: What to draw.
        seed: Sets with different seeds share no picture.
        streaming: Draw rows as they are read: an `IterableDataset` whose shards (of 16 rows) the workers of a data
            loader, and `split_dataset_by_node`, divide among them. Otherwise draw all rows now, or read those of an
            earlier call from the cache: a `Dataset`.
        num_proc: Processes that draw all rows; not for a stream.

    Returns:
        Columns `image` (RGB), `captions` (strings), `lapa_labels` and `celebamask_hq_labels` (grey images of class
        ids) and `faces`, the front-most last, each with `box` (x1, y1, x2, y2), `pose` (yaw, pitch, roll in degrees),
        `landmarks` and `visibility` by the size of the layout ("5", "19", "68", "98", "106"; pixels) and `attributes`,
        CelebA's 40, none where the generator does not define one. `depth` (metres) and `normals` if the configuration
        asks for them.

    Raises:
        ValueError: If `length` is out of its range, or `num_proc` is given for a stream.
    """
    import datasets

    from .faces import VERSION

    if not 1 <= length <= _SET_SIZE:
        raise ValueError(f"length is {length}: 1 to a million, take another seed for more.")
    if streaming and num_proc is not None:
        raise ValueError("num_proc is for streaming=False: a stream is divided by the data loader's num_workers.")
    config = config or SyntheticFaceConfig()
    first = seed * _SET_SIZE
    shards = [(first + i, first + min(i + _SHARD, length)) for i in range(0, length, _SHARD)]
    # The version is there for the cache's fingerprint.
    arguments: dict[str, Any] = {"shards": shards, "config": config, "version": VERSION}
    if streaming:
        return datasets.IterableDataset.from_generator(_rows, features(config), gen_kwargs=arguments)
    return datasets.Dataset.from_generator(_rows, features(config), gen_kwargs=arguments, num_proc=num_proc)


def features(config: SyntheticFaceConfig) -> "datasets.Features":
    """Types of the columns of `load_synthetic`."""
    from datasets import Array2D, Array3D, Features, List, Value
    from datasets import Image as ImageFeature

    size = config.image_size
    face = {
        "box": List(Value("float32"), length=4),
        "pose": List(Value("float32"), length=3),
        "landmarks": {str(layout): List(List(Value("float32"), length=2), length=layout) for layout in _LAYOUTS},
        "visibility": {str(layout): List(Value("bool"), length=layout) for layout in _LAYOUTS},
        "attributes": {name: Value("bool") for name in CELEBA_ATTRIBUTES},
    }
    columns = {
        "image": ImageFeature(),
        "captions": List(Value("string")),
        "lapa_labels": ImageFeature(),
        "celebamask_hq_labels": ImageFeature(),
        "faces": List(face),
    }
    if config.depth:
        columns["depth"] = Array2D((size, size), "float32")
    if config.normals:
        columns["normals"] = Array3D((size, size, 3), "float32")
    return Features(columns)


def _rows(shards: list[tuple[int, int]], config: SyntheticFaceConfig, version: int) -> Iterator[dict[str, Any]]:
    for start, stop in shards:
        for sample in render_faces(range(start, stop), config):
            row = {
                "image": Image.fromarray(sample.image),
                "captions": sample.captions,
                "lapa_labels": Image.fromarray(sample.lapa_labels),
                "celebamask_hq_labels": Image.fromarray(sample.celebamask_hq_labels),
                "faces": [_face_row(face) for face in sample.faces],
            }
            maps: Mapping[str, Any] = {"depth": sample.depth, "normals": sample.normals}
            yield {**row, **{name: value for name, value in maps.items() if value is not None}}


def _face_row(face: SyntheticFace) -> dict[str, Any]:
    return {
        "box": list(face.box),
        "pose": list(face.pose),
        "landmarks": {str(layout): face.landmarks[layout].tolist() for layout in _LAYOUTS},
        "visibility": {str(layout): face.visibility[layout].tolist() for layout in _LAYOUTS},
        "attributes": {name: face.attributes.get(name) for name in CELEBA_ATTRIBUTES},
    }
