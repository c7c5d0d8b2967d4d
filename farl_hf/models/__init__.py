"""
The FaRL networks and their processors: configuration, modelling, dense head, geometry, image processing, tokenisation.

All that a Hub repository carries for `trust_remote_code=True`, so nothing else of this package is imported here.
"""
