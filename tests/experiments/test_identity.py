"""What identifies a trial: fingerprints that stores hold stay, and a raised version is another experiment."""

import numpy as np
import pytest

from swarm.experiments.artifacts import CAPTURE_VERSION
from swarm.experiments.identity import fingerprint, is_present, versions
from swarm.experiments.measurement import learned_scaling
from swarm.experiments.protocols.base import protocol
from swarm.experiments.spec import TrialSpec
from swarm.kernels.quantizers.base import method
from swarm.kernels.spec import KVSpec, LayerOverride, QuantSpec

AFFINE = QuantSpec(method="affine", bits=4, group_size=64)
LEARNED = QuantSpec(method="affine", bits=2, group_size=32, scaling="learned")
SPECS = {
    "3db2": TrialSpec(model="a"),
    "29d1": TrialSpec(model="a", kv=KVSpec(key=AFFINE, value=QuantSpec(method="q4_0")), layers=(0, 3), replicate=2),
    "bb8c": TrialSpec(model="a", protocol="attention", kv=KVSpec(key=LEARNED, value=LEARNED, sink_tokens=4)),
}


@pytest.mark.parametrize("start", SPECS)
def test_fingerprints_that_stores_hold_stay(start):
    # Whoever changes how a specification is written migrates the stores, see `memory/migrations`.
    assert fingerprint(SPECS[start])[:4] == start


def test_a_trial_has_the_versions_of_all_that_decides_its_result():
    deep = LayerOverride(layers=(1,), key=QuantSpec(method="q8_0"), value=LEARNED)
    found = versions(TrialSpec(model="a", kv=KVSpec(key=AFFINE, overrides=(deep,))))
    assert set(found) == {"protocol quality", "codec", "none", "affine", "q8_0", "learned scaling"}
    assert is_present(found)


def test_a_raised_version_is_another_experiment(raise_version):
    spec, other = SPECS["29d1"], SPECS["3db2"]
    before, same = fingerprint(spec), fingerprint(other)
    known = versions(spec)
    raise_version(method("q4_0"))
    assert fingerprint(spec) != before
    assert fingerprint(spec, known) == before
    assert not is_present(known)
    assert fingerprint(other) == same
    raise_version(type(protocol("quality")))
    assert fingerprint(other) != same


def test_what_is_not_installed_here_counts_as_the_first_version():
    assert versions(TrialSpec(model="a", protocol="probe"))["protocol probe"] == 1


def test_learned_factors_change_with_their_version_only(runner, tiny_models):
    # When these numbers change: raise SCALING_VERSION, and CAPTURE_VERSION where the 16-bit run changed.
    spec = TrialSpec(model=tiny_models["llama"], context=96, kv=KVSpec(key=LEARNED, value=LEARNED))
    found = learned_scaling.learned(spec, runner.subject(spec.model))
    assert (learned_scaling.SCALING_VERSION, CAPTURE_VERSION) == (1, 1)
    golden = {"key": (0.98584, 0.98145, 0.99414, 0.97412), "value": (1.08984, 1.14746, 0.79443, 1.09668)}
    clips = {"key": (0.8, 0.95, 0.8, 0.95), "value": (0.9, 0.95, 0.9, 0.9)}
    for side, values in golden.items():
        np.testing.assert_allclose(found[3][side].channel[0, :4], values, rtol=2e-3)
        np.testing.assert_allclose([found[layer][side].clip for layer in range(4)], clips[side], rtol=1e-6)
