"""
Readers of the benchmarks' official layouts and of own data, with label names and flip tables beside them.

May import `models` only.
"""
