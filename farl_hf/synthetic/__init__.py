"""
Faces made in three dimensions, with exact truth and no licence trouble: an endless source of labelled pictures.

Who is drawn is decided in `people`, their shape comes from the parametric human `anny` (`shapes`, `landmarks`), their
looks are painted in the coordinates of the neutral face (`appearance`), and rays see them (`renderer`) under sampled
`lights` and `camera`; `effects` is what the sensor does. `faces` puts it all together: one integer, one picture.
The room needs `pip install 'farl_hf[synthetic]'` and imports only the labels and flip tables of the rest.
"""

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
from .people import Person, sample_person

__all__ = [
    "EFFECTS",
    "VERSION",
    "Person",
    "SyntheticFace",
    "SyntheticFaceConfig",
    "SyntheticFaceSample",
    "SyntheticFaces",
    "render_face_sample",
    "render_faces",
    "render_person",
    "sample_person",
]
