"""Rays: assembles people and things into one scene, and casts rays from the camera through every pixel."""

from collections.abc import Sequence
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

    return _warp().array(np.ascontiguousarray(np.moveaxis(face_maps(), 0, -1)), dtype=_warp().float32, device=where)


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
    ids = triangles.astype(np.intp)
    columns = np.ascontiguousarray(points.T)
    first, second = ([column.take(ids[:, k]) - column.take(ids[:, 0]) for column in columns] for k in (1, 2))
    total = np.empty((len(points), 3))
    for k in range(3):
        i, j = (k + 1) % 3, (k + 2) % 3
        across = first[i] * second[j] - first[j] * second[i]
        total[:, k] = np.bincount(ids.ravel(), weights=across.repeat(3), minlength=len(points))
    return (total / (np.linalg.norm(total, axis=1, keepdims=True) + 1e-20)).astype(np.float32)


@dataclass
class Shot:
    """
    A picture to render.

    Attributes:
        scene: What is in it.
        table, hairlines: (people, columns) and (people, 33) float32, see `appearance`.
        lamps, sky: (n, 8) and (3, 3) float32, see `lights`.
        focal: Focal length in pixels.
        seed: Of the shadows' jitter.
    """

    scene: Scene
    table: np.ndarray
    hairlines: np.ndarray
    lamps: np.ndarray
    sky: np.ndarray
    focal: float
    seed: int


def render(shots: Sequence[Shot], size: int, strands: bool = True, detail: bool = True) -> list[Rendering]:
    """Casts the rays of pictures of `size` x `size` pixels, all in one launch."""
    warp = _warp()
    from . import kernels

    where = device()

    def array(values: np.ndarray, dtype):
        return warp.array(values, dtype=dtype, device=where)

    def joined(name: str) -> np.ndarray:
        return np.concatenate([values for shot in shots for values in getattr(shot.scene, name)])

    meshes, triangles, normals, first = [], [], [], [0]
    for shot in shots:
        points, corners = np.concatenate(shot.scene.points), np.concatenate(shot.scene.triangles)
        meshes.append(warp.Mesh(array(points, warp.vec3), array(corners.ravel(), warp.int32), bvh_leaf_size=4))
        normals.append(vertex_normals(points, corners))
        triangles.append(corners + sum(map(len, normals[:-1])))
        first.append(first[-1] + len(corners))
    people = [0, *np.cumsum([len(shot.table) for shot in shots])]
    lamps = np.zeros((len(shots), 3, 8), dtype=np.float32)
    for i, shot in enumerate(shots):
        lamps[i, : len(shot.lamps)] = shot.lamps
    whose = [ids + before for shot, before in zip(shots, people, strict=False) for ids in shot.scene.people]
    world = kernels.Scene()
    world.meshes = array(np.array([mesh.id for mesh in meshes], dtype=np.uint64), warp.uint64)
    world.first_triangle = array(np.array(first[:-1], dtype=np.int32), warp.int32)
    world.triangles = array(np.concatenate(triangles), warp.int32)
    world.parts = array(joined("parts"), warp.int32)
    world.people = array(np.concatenate(whose).astype(np.int32), warp.int32)
    world.normals = array(np.concatenate(normals), warp.vec3)
    world.neutral = array(joined("neutral"), warp.vec3)
    world.traits = array(joined("traits"), warp.vec4)
    world.table = array(np.concatenate([shot.table for shot in shots]).astype(np.float32), warp.float32)
    world.hairline = array(np.concatenate([shot.hairlines for shot in shots]).astype(np.float32), warp.float32)
    world.maps = _maps(where)
    world.lights = array(lamps, warp.float32)
    world.lamp_count = array(np.array([len(shot.lamps) for shot in shots], dtype=np.int32), warp.int32)
    world.sky = array(np.stack([shot.sky for shot in shots]).astype(np.float32), warp.vec3)
    lenses = [any((parts == kernels.LENS).any() for parts in shot.scene.parts) for shot in shots]
    world.lenses = array(np.array(lenses, dtype=np.float32), warp.float32)
    world.strands = float(strands)
    world.detail = float(detail)

    middle = (size - 1) / 2
    cameras = np.array([(shot.focal, middle, middle, shot.seed % 65536) for shot in shots], dtype=np.float32)
    pixels = len(shots) * size * size

    def empty(dtype, *more: int):
        return warp.empty((pixels, *more) if more else pixels, dtype=dtype, device=where)

    colour, finer, normal = empty(warp.vec4), empty(warp.vec4), empty(warp.vec3)
    part, depth = empty(warp.int32), empty(warp.float32)
    lapa, celebamask_hq = empty(warp.uint8), empty(warp.uint8)
    smooth_seen, by_lamp = empty(warp.vec3), empty(warp.vec3, 3)
    # Where only a lens is before the background, nothing looks for the lamps.
    seen = warp.zeros(pixels, dtype=warp.vec3, device=where)
    scene = [world, array(cameras, warp.vec4), size]
    # Of each pixel's one or two rays; the CPU goes over the triangles instead of asking the tree.
    nothing = -1 if where == "cpu" else kernels.UNKNOWN
    distance, reach = (warp.full((pixels, 2), kernels.FARTHEST, dtype=warp.float32, device=where) for _ in range(2))
    face = warp.full((pixels, 2), nothing, dtype=warp.int32, device=where)

    projected = warp.empty(sum(map(len, normals)), dtype=warp.vec3, device=where)
    if where == "cpu":
        before = np.cumsum([0, *map(len, normals)])
        for i, points in enumerate(normals):
            inputs = [*scene[:2], i, int(before[i]), projected]
            warp.launch(kernels.project, dim=len(points), inputs=inputs, device=where)

    def find_triangles(first: int) -> None:
        if where == "cpu":
            for i, corners in enumerate(triangles):
                inputs = [*scene, i, projected, first, distance, reach, face]
                warp.launch(kernels.find_triangles, dim=len(corners), inputs=inputs, device=where)

    outputs = [reach, face, colour, part, lapa, celebamask_hq, depth, normal]
    find_triangles(1)
    warp.launch(kernels.cast_rays, dim=pixels, inputs=[*scene, 1, *outputs, seen, by_lamp, finer], device=where)
    lamps_of = [size, part, depth, seen, by_lamp, colour, smooth_seen]
    warp.launch(kernels.add_lamps, dim=pixels, inputs=lamps_of, device=where)
    edges = [size, nothing, part, colour, distance, reach, face]
    warp.launch(kernels.find_edges, dim=pixels, inputs=edges, device=where)
    find_triangles(0)
    warp.launch(kernels.cast_rays, dim=pixels, inputs=[*scene, 0, *outputs, smooth_seen, by_lamp, finer], device=where)

    shape = (len(shots), size, size)
    smooth = finer.numpy().reshape(*shape, 4)
    distance = depth.numpy().reshape(shape)
    distance = np.where(distance < 1e5, distance, np.float32(np.inf))
    key = part.numpy().reshape(shape)
    parts, everybody = key & 15, (key >> 10) - 1
    parts[parts == 15] = -1
    lapa, celebamask_hq = lapa.numpy().reshape(shape), celebamask_hq.numpy().reshape(shape)
    normal = normal.numpy().reshape(*shape, 3)
    return [
        Rendering(
            colour=smooth[i, ..., :3],
            alpha=np.clip(smooth[i, ..., 3], 0, 1),
            lapa=lapa[i].copy(),
            celebamask_hq=celebamask_hq[i].copy(),
            part=parts[i],
            person=np.maximum(everybody[i] - int(people[i]), -1),
            depth=distance[i].copy(),
            normal=normal[i].copy(),
        )
        for i in range(len(shots))
    ]
