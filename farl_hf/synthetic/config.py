"""What the generator draws: sizes, poses, how often each thing occurs, and the effects that can be switched off."""

from dataclasses import dataclass, fields
from pathlib import Path

# What can be left out of the pictures one by one, to see what each is worth.
EFFECTS = (
    "shadows",  # lamps cast no shadows, corners are not darker
    "light_variety",  # always the same soft light from the front
    "skin_detail",  # smooth skin: no freckles, wrinkles, pores, blotches, make-up
    "skin_tones",  # everybody has the same middle tone
    "hair_shapes",  # cropped hair only
    "hair_strands",  # hair and brows without strands
    "beards",
    "glasses",
    "hats",  # hats and headscarves
    "jewellery",  # earrings and necklaces
    "occluders",  # hands and things before the face
    "expressions",  # closed mouths, open eyes
    "gaze",  # everybody looks into the camera
    "shape_variety",  # everybody has the average head
    "perspective",  # a far camera
    "backgrounds",  # plain grey
    "depth_of_field",  # what is nearer or farther than the face is as sharp as the face
    "blur",  # focus and motion
    "noise",  # sensor noise
    "compression",  # JPEG
    "colour",  # exposure, white balance, grey pictures
)

_PROBABILITIES = (
    "glasses",
    "sunglasses",
    "hat",
    "headscarf",
    "beard",
    "makeup",
    "earrings",
    "necklace",
    "occluder",
    "depth_of_field",
    "blur",
    "noise",
    "grey",
    "jpeg",
)


@dataclass(frozen=True)
class SyntheticFaceConfig:
    """
    What the generator draws.

    Args:
        image_size: Side of the square picture in pixels, 48 to 1024.
        num_faces: Least and most faces in a picture, 1 to 6.
        yaw, pitch, roll: (spread, limit) in degrees: standard deviation of the head's turn, and the largest turn to
            either side; the limit of yaw and pitch is at most 90 (a full profile), of roll at most 180.
        face_size: Least and most height of a single face, from the hairline to the chin, as a share of the picture, in
            (0, 1.5]; several faces share the room.
        ages: Youngest and oldest age in years, 2 to 90; every age in between is equally likely.
        skin_tones: Lightest and darkest skin, 0 (very light) to 1 (very dark); every tone in between is equally likely.
        male: Probability of a man.
        glasses, sunglasses, hat, headscarf, occluder, depth_of_field, blur, noise, grey, jpeg: Probability of each in a
            picture (of the first four: for each person).
        beard: Probability of facial hair for a grown man, `makeup` and `earrings` for a woman, `necklace` for anybody.
        without: Effects of `EFFECTS` to switch off.
        style: `"train"` or `"held_out"`: other hair, lights, backgrounds and cameras, to measure transfer by.
        backgrounds: A folder of photos (searched recursively) to use behind the faces half of the time; unreadable
            files are skipped and counted. None draws all backgrounds.
        max_captions: Most captions of a picture; each has at least one.
        depth, normals: Whether samples carry depth (metres) and normals.

    Raises:
        ValueError: If a value is out of its range; the message names it.
    """

    image_size: int = 224
    num_faces: tuple[int, int] = (1, 1)
    yaw: tuple[float, float] = (25.0, 75.0)
    pitch: tuple[float, float] = (12.0, 45.0)
    roll: tuple[float, float] = (9.0, 40.0)
    face_size: tuple[float, float] = (0.4, 0.75)
    ages: tuple[float, float] = (4.0, 85.0)
    skin_tones: tuple[float, float] = (0.0, 1.0)
    male: float = 0.5
    glasses: float = 0.2
    sunglasses: float = 0.06
    hat: float = 0.1
    headscarf: float = 0.05
    beard: float = 0.45
    makeup: float = 0.45
    earrings: float = 0.4
    necklace: float = 0.2
    occluder: float = 0.15
    depth_of_field: float = 0.25
    blur: float = 0.25
    noise: float = 0.7
    grey: float = 0.07
    jpeg: float = 0.6
    without: tuple[str, ...] = ()
    style: str = "train"
    backgrounds: str | Path | None = None
    max_captions: int = 5
    depth: bool = False
    normals: bool = False

    def __post_init__(self):
        # Lists (of a JSON file or a command line) are as good as tuples; the configuration stays hashable.
        for field in fields(self):
            if isinstance(getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(getattr(self, field.name)))
        if not 48 <= self.image_size <= 1024:
            raise ValueError(f"image_size is {self.image_size}: the generator draws 48 to 1024 pixels.")
        if not 1 <= self.num_faces[0] <= self.num_faces[1] <= 6:
            raise ValueError(f"num_faces is {self.num_faces}: least and most faces lie between 1 and 6.")
        for name, most in (("yaw", 90), ("pitch", 90), ("roll", 180)):
            spread, limit = getattr(self, name)
            if spread < 0 or not 0 <= limit <= most:
                raise ValueError(f"{name} is {(spread, limit)}: a spread of at least 0 and a limit from 0 to {most}.")
        for name, least, most in (("face_size", 0.05, 1.5), ("ages", 2, 90), ("skin_tones", 0, 1)):
            low, high = getattr(self, name)
            if not least <= low <= high <= most:
                raise ValueError(f"{name} is {(low, high)}: two rising numbers from {least} to {most}.")
        for name in (*_PROBABILITIES, "male"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}: a probability lies between 0 and 1.")
        if self.glasses + self.sunglasses > 1 or self.hat + self.headscarf > 1:
            raise ValueError("glasses + sunglasses, and hat + headscarf, are probabilities of at most 1 together.")
        unknown = sorted(set(self.without) - set(EFFECTS))
        if isinstance(self.without, str) or unknown:
            raise ValueError(f"without={self.without!r}: choose among the effects {', '.join(EFFECTS)}.")
        if self.style not in ("train", "held_out"):
            raise ValueError(f"style is {self.style!r}: 'train' or 'held_out'.")
        if self.max_captions < 1:
            raise ValueError(f"max_captions is {self.max_captions}: at least 1.")
        if self.backgrounds is not None and not Path(self.backgrounds).is_dir():
            raise ValueError(f"backgrounds: {self.backgrounds} is not a folder.")

    def has(self, effect: str) -> bool:
        """Whether an effect of `EFFECTS` is on."""
        return effect not in self.without
