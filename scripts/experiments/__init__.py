"""Experiments on generated faces, whose tables the README shows: what pre-training learns, and what it is good for."""
