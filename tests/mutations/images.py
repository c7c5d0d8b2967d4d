"""Mistakes in geometry and image processing."""

from . import Mutation

GEOMETRY = "farl_hf/models/geometry_farl.py"
GEOMETRY_TESTS = ("tests/models/test_geometry_farl.py",)

MUTATIONS = [
    Mutation(
        GEOMETRY,
        "return (tanh_warp(2 * aligned / size - 1, warp_factor) + 1) / 2 * size",
        "return (tanh_warp(2 * aligned / (size - 1) - 1, warp_factor) + 1) / 2 * (size - 1)",
        GEOMETRY_TESTS,
    ),
    Mutation(
        GEOMETRY,
        "points = (inverse_tanh_warp(2 * points / size - 1, warp_factor) + 1) / 2 * size",
        "points = (inverse_tanh_warp(2 * points / (size - 1) - 1, warp_factor) + 1) / 2 * (size - 1)",
        GEOMETRY_TESTS,
    ),
]
