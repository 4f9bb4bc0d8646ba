"""What each protocol measures on tiny models, compared to the numbers recorded for its `version`."""

from pathlib import Path

import golden
import pytest

from swarm.experiments import identity
from swarm.experiments.protocols import base as protocols
from swarm.experiments.spec import TrialSpec
from swarm.kernels import plugins
from swarm.kernels.spec import KVSpec

RECORDS = Path(__file__).with_name("golden.json")
TOLERANCE = 0.01
"""A value that another BLAS rounds over the edge of a code moves a tiny model's divergence by less."""

KV = KVSpec.parse("K affine3/g32+hadamard V kivi4/g32+learned sink2 recent8 [layers 0: K q8_0]")


OURS = [
    name for name in plugins.names(protocols.PACKAGE) if name != "engine"
]  # what an engine computes is not our code


@pytest.mark.parametrize("name", OURS)
def test_a_protocol_measures_what_its_version_did(name, runner, tiny_models):
    protocol = protocols.protocol(name)
    numbers = {}
    for family in ("llama", "gemma3_text"):
        for rung in range(len(protocol.rungs)):
            spec = TrialSpec(
                model=tiny_models[family], kv=KV, protocol=name, rung=rung, context=max(96, protocol.least_context)
            )
            found = runner.run(spec)
            for metric in found.metrics:
                if not metric.timed and metric.name != "noise_kld":  # rounding itself
                    numbers[f"{family}, rung {rung}: {metric.name}"] = metric.value
    golden.check(RECORDS, name, identity.versions(spec), numbers, TOLERANCE)
