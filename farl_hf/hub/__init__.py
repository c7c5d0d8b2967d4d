"""
What a Hub repository needs beside weights: model cards, and code for people without this package; and
what a Space with the page needs.

May import `datasets`, `metrics` and `models`.
"""
