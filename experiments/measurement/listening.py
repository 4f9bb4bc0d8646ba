"""Collects what attention is given while a model runs. Knows attention calls; knows no files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from swarm.experiments.measurement import halves
from swarm.kernels import arrays

if TYPE_CHECKING:
    from swarm.kernels.attention import Recorded


class Listener:
    """What attention was given, layer by layer; to be passed to `attention.record`.

    `keys` and `values` hold one 16-bit array per call, `queries` float32 and `scales` those of the last call.
    """

    def __init__(self, n_layers: int) -> None:
        self.keys: list[list[NDArray[Any]]] = [[] for _ in range(n_layers)]
        self.values: list[list[NDArray[Any]]] = [[] for _ in range(n_layers)]
        self.queries: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * n_layers
        self.scales = [0.0] * n_layers

    def __call__(self, call: Recorded) -> None:
        """Note one call."""
        self.keys[call.layer].append(halves.to_file(call.keys).copy())
        self.values[call.layer].append(halves.to_file(call.values).copy())
        self.scales[call.layer] = float(call.scale)
        self.queries[call.layer] = np.array(arrays.to_numpy(call.queries), np.float32)
