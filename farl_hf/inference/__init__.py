"""
From photos to faces: detection, pipelines, the one answer `Faces` and its drawing, faster and smaller networks for
prediction, export to other runtimes.

May import `weights`, `synthetic`, `datasets`, `metrics` and `models`; not training.
"""
