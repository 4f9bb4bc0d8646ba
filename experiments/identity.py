"""What makes two trials the same experiment: what was asked, and the versions of what answers it.

A version is a number that whoever changes results raises; golden-value tests fail until that is done. The code itself
is no part of identity: its revision is recorded with the environment of each measurement.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache

from swarm.experiments.edits import EDIT_VERSION
from swarm.experiments.spec import TrialSpec
from swarm.kernels.errors import UnknownNameError
from swarm.kernels.quantizers import base as quantizers

PROTOCOL = "protocol "
"""Begins the key of a protocol in `versions`."""
_SCALING = "learned scaling"
_EDITS = "weight edits"


def versions(spec: TrialSpec) -> dict[str, int]:
    """The present versions of what decides a trial's result: its protocol, its methods and what these share.

    The keys are `protocol NAME`, names of methods, `codec`, and, where used, `learned scaling` and `weight edits`.
    """
    sides = [spec.kv.key, spec.kv.value, *(side for o in spec.kv.overrides for side in (o.key, o.value) if side)]
    learned = [_SCALING] if any(side.scaling == "learned" for side in sides) else []
    edited = [_EDITS] if spec.edits else []
    return {
        part: version(part) for part in (PROTOCOL + spec.protocol, *quantizers.versions(spec.kv), *learned, *edited)
    }


@cache
def version(part: str) -> int:
    """The present version of what a key of `versions` names; what is not installed here counts as version 1."""
    # Imported here, as they bring NumPy, and whoever reads no trial does without.
    from swarm.experiments.measurement.learned_scaling import SCALING_VERSION
    from swarm.experiments.protocols.base import protocol

    if part == _SCALING:
        return SCALING_VERSION
    if part == _EDITS:
        return EDIT_VERSION
    try:
        if part.startswith(PROTOCOL):
            return protocol(part.removeprefix(PROTOCOL)).version
        return quantizers.version(part)
    except UnknownNameError:
        return 1


def is_present(stored: Mapping[str, int]) -> bool:
    """Whether a trial that ran with these versions would give the same result now."""
    return all(version(part) == number for part, number in stored.items())


def fingerprint(spec: TrialSpec, stored: Mapping[str, int] | None = None) -> str:
    """SHA-256 over a specification and its versions (the present ones by default): equal means the same experiment.

    Stores hold fingerprints: a field that is added to specifications later has to be left out here at its default.
    """
    parts = versions(spec) if stored is None else stored
    text = spec.model_dump_json() + json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
