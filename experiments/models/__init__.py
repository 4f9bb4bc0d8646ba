"""Models by name, ready to run: see `registry`.

A file in this package is one bundled model, except `base`, `registry` and files that begin with an underscore.
"""
