"""The curve over the context: every point is a quality trial, and recent tokens in 16 bit leave what lies far back."""

import json
import shutil

import pytest

from swarm.experiments.protocols.context import contexts
from swarm.experiments.spec import TrialSpec
from swarm.kernels.spec import KVSpec, QuantSpec

CONTEXT = 2048


def affine(bits, **fields):
    quant = QuantSpec(method="affine", bits=bits, group_size=32)
    return KVSpec(key=quant, value=quant, **fields)


@pytest.fixture(scope="module")
def longer(tiny_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("longer") / "model"
    shutil.copytree(tiny_models["llama"], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": CONTEXT}))
    return str(folder)


@pytest.mark.parametrize(
    ("longest", "expected"), [(96, (96,)), (512, (512,)), (2048, (512, 2048)), (5000, (512, 2048, 5000))]
)
def test_the_contexts_of_a_curve(longest, expected):
    assert contexts(longest) == expected


@pytest.mark.parametrize(
    "kv", [affine(3), pytest.param(affine(4, sink_tokens=4, residual_window=700), marks=pytest.mark.slow)]
)
def test_every_point_is_a_quality_trial(runner, longer, kv):
    found = runner.run(TrialSpec(model=longer, context=CONTEXT, protocol="context", kv=kv))
    for context in (512, CONTEXT):
        assert found[f"kld_at_{context}"] == runner.run(TrialSpec(model=longer, context=context, kv=kv))["kld"]
    assert found["kld"] == found[f"kld_at_{CONTEXT}"]
    wider = kv.model_copy(update={"residual_window": max(512, kv.residual_window)})
    far = runner.run(TrialSpec(model=longer, context=CONTEXT, kv=wider))["kld"]
    assert found["kld_beyond_512"] == far
    assert found.arrays["context_tokens"] == (512, CONTEXT)


def test_16_bit_has_no_curve(runner, longer):
    found = runner.run(TrialSpec(model=longer, context=CONTEXT, protocol="context"))
    assert found["kld"] == found["kld_at_512"] == found["kld_beyond_512"] == 0
    assert "context_exponent" not in {metric.name for metric in found.metrics}
