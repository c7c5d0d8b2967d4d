"""
From photos to faces: detection, faster and smaller networks for prediction, export to other runtimes.

May import `synthetic`, `datasets`, `metrics` and `models`; not training.
"""
