"""
What a Hub repository needs beside weights: model cards, and code for people without this package.

May import `datasets`, `metrics` and `models`.
"""
