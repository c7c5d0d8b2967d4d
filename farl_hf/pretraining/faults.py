"""What can be wrong with shards and samples: the kinds, the errors that carry them, and the record of one case."""

from __future__ import annotations

from dataclasses import dataclass

# What can be wrong, and what the reports call it.
FAULTS = {
    "missing_shard": "shards that are gone or cannot be fetched",
    "unreadable_shard": "shards that are no tar or parquet file",
    "truncated_shard": "shards that end too early",
    "damaged_shard": "shards with a damaged place inside, read on behind it",
    "unreadable_codes": "files of stored codes that cannot be read",
    "missing_image": "samples without image data",
    "not_an_image": "images of no known format",
    "corrupt_image": "images that cannot be decoded",
    "truncated_image": "images that end too early",
    "bad_image_size": "images below 8 pixels or above 89 megapixels",
    "missing_caption": "samples without a caption",
    "empty_caption": "captions without text",
    "undecodable_caption": "captions that are not UTF-8",
    "bad_metadata": "samples whose JSON cannot be read",
    "missing_codes": "samples without stored codes",
}
SHARD_FAULTS = ("missing_shard", "unreadable_shard", "truncated_shard", "damaged_shard", "unreadable_codes")


class ShardError(Exception):
    """A shard that is missing, unreadable, damaged or cut short. `kind` is one of the keys of `FAULTS`."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


class SampleFault(Exception):
    """A sample that cannot be used. `kind` is one of the keys of `FAULTS`."""

    def __init__(self, kind: str):
        super().__init__(kind)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Fault:
    """
    One bad sample or shard, as it is counted and named.

    Attributes:
        kind: One of the keys of `FAULTS`.
        shard: Path or address of the shard.
        key: Name of the sample inside its shard; `None` where the shard itself is bad.
        epoch: When it was met, from 0.
        message: What was found, where there is more to say than the kind.
    """

    kind: str
    shard: str
    key: str | None
    epoch: int
    message: str = ""
