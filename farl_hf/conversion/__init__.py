"""
Official files -> Hugging Face folders, and back to CLIP: readers of checkpoint files, downloads, converters, cards.

May import `hub`, `datasets` (label names) and `models`.
"""
