"""The C library's memory, for training on CPU."""

import ctypes

# Parameters of `mallopt` (glibc's malloc.h).
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """
    Keeps what this process frees for its next allocations. By default glibc returns every block of over 32 MiB to the
    system, and a training step on CPU asks for its activations anew each time: the page faults cost a quarter of a
    ViT-B/16 step of 16 images. The process's memory stays at its peak in exchange. Does nothing without glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)
