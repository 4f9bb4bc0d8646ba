"""Where caches of keys and values stand in the list of caches that an mlx-lm model has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Place = tuple[int, int | None]
"""Index in a model's list of caches, and within a `CacheList` there."""


def all_places(caches: Sequence[Any]) -> Iterator[tuple[Place, Any]]:
    """Every cache of a model with its place, also those that share a layer."""
    from mlx_lm.models.cache import CacheList

    for entry, cache in enumerate(caches):
        if isinstance(cache, CacheList):
            yield from (((entry, part), inner) for part, inner in enumerate(cache.caches))
        else:
            yield (entry, None), cache


def replaced(caches: Sequence[Any], others: Mapping[Place, Any]) -> list[Any]:
    """The caches of a model with others at some places."""
    from mlx_lm.models.cache import CacheList

    found = []
    for entry, cache in enumerate(caches):
        if isinstance(cache, CacheList):
            found.append(CacheList(*(others.get((entry, part), inner) for part, inner in enumerate(cache.caches))))
        else:
            found.append(others.get((entry, None), cache))
    return found
