"""Portable deterministic tensors: the same numbers on every machine, from a key and a seed.

Nothing here comes from another project.  A *spec* is a list of
``[key, shape, dtype]`` rows (see ``manifest.json``); ``RULES`` turns a row
into a distribution, and the numbers come from
``numpy.random.Generator(PCG64(crc32(key) ^ seed)).standard_normal(float32)``.
"""

from __future__ import annotations

import hashlib
import math
import re
import zlib

import numpy as np

# (regular expression on the key, kind, arguments); the first match wins.
#   normal(mean, std)      mean + std * z
#   fan(axis_from, gain)   z * gain / sqrt(product of shape[axis_from:])
#   fan0(gain)             z * gain / sqrt(shape[0])
#   pos(base, std)         base + std * |z|
#   const(value)
RULES = [
    (r"num_batches_tracked$", "const", (7,)),
    (r"running_var$", "pos", (0.6, 0.4)),
    (r"running_mean$", "normal", (0.0, 0.1)),
    (r"image_mean$", "clip_mean", ()),
    (r"image_std$", "clip_std", ()),
    (r"(^|\.)logit_scale$", "normal", (3.5, 0.1)),
    (r"(^|\.)(class_embedding|mask_token)$", "normal", (0.0, 0.5)),
    (r"(^|\.)positional_embedding$", "normal", (0.0, 0.5)),
    (r"token_embedding\.weight$", "normal", (0.0, 0.5)),
    (r"(^|\.)(proj|text_projection)$", "fan0", (1.0,)),
    # normalisation layers: ln_1, ln_2, ln_pre, ln_post, ln_final, ln_lm, bn, fpns.0.1
    (r"(\.|^)(ln_[a-z0-9]+|bn|fpns\.0\.1)\.weight$", "normal", (1.0, 0.1)),
    (r"(\.|^)(ln_[a-z0-9]+|bn|fpns\.0\.1)\.bias$", "normal", (0.0, 0.1)),
    # transposed convolutions are [in, out, kh, kw]
    (r"fpns\.(0\.0|0\.3|1)\.weight$", "fan0", (1.0,)),
    (r"^head\.head\.conv_seg\.weight$", "fan", (1, 3.0)),
    (r"^head\.head\.conv_seg\.bias$", "normal", (0.0, 0.1)),
    (r"^heatmap_head\.head\.conv_seg\.weight$", "fan", (1, 4.0)),
    (r"^heatmap_head\.head\.conv_seg\.bias$", "normal", (-6.0, 0.3)),
    (r"(bias|in_proj_bias)$", "normal", (0.0, 0.05)),
    (r"weight$", "fan", (1, 1.0)),
]
_COMPILED = [(re.compile(p), k, a) for p, k, a in RULES]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def rng(key: str, seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64((zlib.crc32(key.encode()) ^ seed) & 0xFFFFFFFF))


def normal(key: str, shape, seed: int) -> np.ndarray:
    return rng(key, seed).standard_normal(tuple(shape), dtype=np.float32)


def make(key: str, shape, dtype: str, seed: int) -> np.ndarray:
    shape = tuple(shape)
    for pat, kind, args in _COMPILED:  # noqa: B007
        if pat.search(key):
            break
    else:
        raise KeyError(f"no rule for {key}")
    f = np.float32
    if kind == "const":
        return np.full(shape, args[0], dtype=dtype)
    if kind == "clip_mean":
        return np.asarray(CLIP_MEAN, f).reshape(shape)
    if kind == "clip_std":
        return np.asarray(CLIP_STD, f).reshape(shape)
    z = normal(key, shape, seed)
    if kind == "normal":
        z = f(args[0]) + f(args[1]) * z
    elif kind == "pos":
        z = f(args[0]) + f(args[1]) * np.abs(z)
    elif kind == "fan":
        fan = int(np.prod(shape[args[0] :])) if len(shape) > args[0] else 1
        z = z * f(args[1] / math.sqrt(fan))
    elif kind == "fan0":
        z = z * f(args[0] / math.sqrt(shape[0]))
    else:
        raise ValueError(kind)
    return np.ascontiguousarray(z, dtype=dtype)


def state_dict(spec, seed: int, overrides=None):
    """``{key: numpy array}`` in the order of the spec; overrides: ``{key: list of numbers}``."""
    sd = {k: make(k, s, d, seed) for k, s, d in spec}
    for k, v in (overrides or {}).items():
        if k in sd:
            sd[k] = np.asarray(v, dtype=sd[k].dtype).reshape(sd[k].shape)
    return sd


def digest(sd) -> str:
    h = hashlib.sha256()
    for k in sorted(sd):
        h.update(k.encode())
        h.update(np.ascontiguousarray(sd[k]).tobytes())
    return h.hexdigest()


def soft_digest(sd):
    """Three plain numbers that survive a last-bit difference in the generator."""
    n = s = q = 0.0
    for k in sorted(sd):
        a = np.asarray(sd[k], dtype=np.float64)
        n += a.size
        s += float(a.sum())
        q += float((a * a).sum())
    return [n, s, q]


# ---------------------------------------------------------------- inputs
def unit_image(name: str, size, seed: int, block: int = 32) -> np.ndarray:
    """[3, H, W] in [0, 1]: coloured blocks plus noise (height and width multiples of block)."""
    h, w = (size, size) if isinstance(size, int) else size
    low = normal(name + "/low", (3, -(-h // block), -(-w // block)), seed)
    low = np.repeat(np.repeat(low, block, axis=1), block, axis=2)[:, :h, :w]
    fine = normal(name + "/fine", (3, h, w), seed)
    x = np.float32(0.5) + np.float32(0.22) * low + np.float32(0.06) * fine
    return np.clip(x, 0, 1).astype(np.float32)


def label_map(name: str, size: int, num_classes: int, seed: int, block: int = 32) -> np.ndarray:
    n = size // block
    low = rng(name, seed).integers(0, num_classes, (n, n))
    return np.repeat(np.repeat(low, block, 0), block, 1).astype(np.int64)


# ---------------------------------------------------------------- fingerprints
def fingerprint(x, name: str, k: int = 16, seed: int = 77):
    """k numbers: <x, r_i> / sqrt(n) for fixed random r_i, plus mean, std, absmax (float64)."""
    a = np.ascontiguousarray(np.asarray(x, dtype=np.float64)).ravel()
    g = rng(f"fp/{name}/{a.size}", seed)
    out = np.empty(k + 3)
    for i in range(k):
        r = g.standard_normal(a.size, dtype=np.float32)
        out[i] = float(np.dot(a, r.astype(np.float64))) / math.sqrt(a.size)
    out[k:] = a.mean(), a.std(), np.abs(a).max()
    return out
