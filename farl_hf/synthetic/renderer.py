"""Rays: assembles people and things into one scene, and casts rays from the camera through every pixel."""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np


def _warp():
    try:
        import warp
    except ImportError as error:
        raise ImportError("Generated faces need warp: pip install 'farl_hf[synthetic]'.") from error
    return warp


@lru_cache(maxsize=1)
def device() -> str:
    """CUDA where there is one, else the CPU."""
    warp = _warp()
    warp.config.quiet = True
    warp.init()
    return "cuda" if warp.is_cuda_available() else "cpu"


@dataclass
class Scene:
    """Meshes in camera space (metres; x right, y down, z away), to be filled with `add`."""

    points: list[np.ndarray] = field(default_factory=list)
    triangles: list[np.ndarray] = field(default_factory=list)
    parts: list[np.ndarray] = field(default_factory=list)
    people: list[np.ndarray] = field(default_factory=list)
    neutral: list[np.ndarray] = field(default_factory=list)
    traits: list[np.ndarray] = field(default_factory=list)
    count: int = 0

    def add(
        self,
        points: np.ndarray,
        triangles: np.ndarray,
        neutral: np.ndarray,
        parts: np.ndarray | int,
        person: int,
        traits: np.ndarray | None = None,
    ) -> None:
        self.points.append(np.asarray(points, dtype=np.float32))
        self.triangles.append(np.asarray(triangles, dtype=np.int32) + self.count)
        self.neutral.append(np.asarray(neutral, dtype=np.float32))
        self.parts.append(np.broadcast_to(np.asarray(parts, dtype=np.int32), len(triangles)))
        self.people.append(np.full(len(triangles), person, dtype=np.int32))
        if traits is None:
            traits = np.broadcast_to(np.array([0, 0, 0.9, 0], dtype=np.float32), (len(points), 4))
        self.traits.append(np.asarray(traits, dtype=np.float32))
        self.count += len(points)


@dataclass
class Rendering:
    """
    Attributes:
        colour: (size, size, 3) float32 linear, premultiplied; alpha: (size, size) float32 cover.
        lapa, celebamask_hq: (size, size) uint8.
        part: (size, size) int32, -1 on the background; person likewise.
        depth: (size, size) float32; normal: (size, size, 3) float32.
    """

    colour: np.ndarray
    alpha: np.ndarray
    lapa: np.ndarray
    celebamask_hq: np.ndarray
    part: np.ndarray
    person: np.ndarray
    depth: np.ndarray
    normal: np.ndarray


@lru_cache(maxsize=4)
def _maps(where: str):
    from .appearance import face_maps

    return _warp().array(face_maps(), dtype=_warp().float32, device=where)


@lru_cache(maxsize=1)
def openness() -> np.ndarray:
    """(V,) share of the sky that each vertex of the neutral head sees, 0 to 1."""
    warp = _warp()
    from . import kernels
    from .shapes import CAVITY, EYE, SOCKET, TONGUE, head_model

    device()
    model = head_model()
    solid = ~np.isin(model.parts, (EYE,))
    points = warp.array(model.neutral, dtype=warp.vec3, device="cpu")
    mesh = warp.Mesh(points, warp.array(model.faces[solid].ravel(), dtype=warp.int32, device="cpu"))
    normals = vertex_normals(model.neutral, model.faces)
    result = warp.zeros(len(model.neutral), dtype=warp.float32, device="cpu")
    warp.launch(
        kernels.openness,
        dim=len(model.neutral),
        inputs=[mesh.id, points, warp.array(normals, dtype=warp.vec3, device="cpu"), 64, 0.08, result],
        device="cpu",
    )
    free = result.numpy().copy()
    inside = np.unique(model.faces[np.isin(model.parts, (SOCKET, CAVITY, TONGUE))])
    free[inside] = np.maximum(free[inside], 0.35)
    eyes = np.unique(model.faces[model.parts == EYE])
    free[eyes] = 0.75
    return np.clip(0.25 + 0.75 * free, 0, 1)


def vertex_normals(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """(n, 3) float32 unit normals, weighted by area."""
    a, b, c = (points[triangles[:, i]] for i in range(3))
    face = np.cross(b - a, c - a)
    ids = triangles.ravel()
    total = np.stack(
        [np.bincount(ids, weights=np.repeat(face[:, k], 3), minlength=len(points)) for k in range(3)], axis=1
    )
    return (total / (np.linalg.norm(total, axis=1, keepdims=True) + 1e-20)).astype(np.float32)


def render(
    scene: Scene,
    table: np.ndarray,
    hairlines: np.ndarray,
    lamps: np.ndarray,
    sky: np.ndarray,
    focal: float,
    size: int,
    seed: int,
    strands: bool = True,
    detail: bool = True,
) -> Rendering:
    """Casts the rays of a picture of `size` x `size` pixels with a focal length in pixels."""
    warp = _warp()
    from . import kernels

    where = device()
    points = np.concatenate(scene.points)
    triangles = np.concatenate(scene.triangles)
    normals = vertex_normals(points, triangles)

    def array(values: np.ndarray, dtype):
        return warp.array(values, dtype=dtype, device=where)

    mesh = warp.Mesh(array(points, warp.vec3), array(triangles.ravel(), warp.int32))
    world = kernels.Scene()
    world.mesh = mesh.id
    world.triangles = array(triangles, warp.int32)
    world.parts = array(np.concatenate(scene.parts), warp.int32)
    world.people = array(np.concatenate(scene.people), warp.int32)
    world.normals = array(normals, warp.vec3)
    world.neutral = array(np.concatenate(scene.neutral), warp.vec3)
    world.traits = array(np.concatenate(scene.traits), warp.vec4)
    world.table = array(table.astype(np.float32), warp.float32)
    world.hairline = array(hairlines.astype(np.float32), warp.float32)
    world.maps = _maps(where)
    world.lights = array(lamps.astype(np.float32), warp.float32)
    world.sky = array(sky.astype(np.float32), warp.vec3)
    world.lenses = float(any((parts == kernels.LENS).any() for parts in scene.parts))
    world.strands = float(strands)
    world.detail = float(detail)

    pixels = size * size
    colour = warp.zeros(pixels, dtype=warp.vec4, device=where)
    finer = warp.zeros(pixels, dtype=warp.vec4, device=where)
    part = warp.zeros(pixels, dtype=warp.int32, device=where)
    lapa = warp.zeros(pixels, dtype=warp.uint8, device=where)
    celebamask_hq = warp.zeros(pixels, dtype=warp.uint8, device=where)
    depth = warp.zeros(pixels, dtype=warp.float32, device=where)
    normal = warp.zeros(pixels, dtype=warp.vec3, device=where)
    seen = warp.zeros(pixels, dtype=warp.vec3, device=where)
    smooth_seen = warp.zeros(pixels, dtype=warp.vec3, device=where)
    by_lamp = warp.zeros((pixels, 3), dtype=warp.vec3, device=where)
    camera = warp.vec4(float(focal), (size - 1) / 2, (size - 1) / 2, float(seed % 65536))
    outputs = [colour, part, lapa, celebamask_hq, depth, normal]
    first = [world, camera, size, 1, *outputs, seen, by_lamp, finer]
    warp.launch(kernels.cast_rays, dim=pixels, inputs=first, device=where)
    lamps_of = [size, part, depth, seen, by_lamp, colour, smooth_seen]
    warp.launch(kernels.add_lamps, dim=pixels, inputs=lamps_of, device=where)
    more = [world, camera, size, 0, *outputs, smooth_seen, by_lamp, finer]
    warp.launch(kernels.cast_rays, dim=pixels, inputs=more, device=where)
    smooth = finer.numpy().reshape(size, size, 4)
    distance = depth.numpy().reshape(size, size)
    key = part.numpy().reshape(size, size)
    return Rendering(
        colour=smooth[..., :3],
        alpha=np.clip(smooth[..., 3], 0, 1),
        lapa=lapa.numpy().reshape(size, size),
        celebamask_hq=celebamask_hq.numpy().reshape(size, size),
        part=np.where(key % 16 == 15, -1, key % 16),
        person=key // 1024 - 1,
        depth=np.where(distance < 1e5, distance, np.float32(np.inf)),
        normal=normal.numpy().reshape(size, size, 3),
    )
