"""Data sets of faces, with their labels."""
