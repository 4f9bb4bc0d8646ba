"""Generation: free-running answers beside 16 bit's, where they part, and what counts as valid."""

import mlx.core as mx
import numpy as np
import pytest

from swarm.experiments.measurement import generation_run
from swarm.experiments.measurement.generation_run import GenerationRun
from swarm.experiments.measurement.prompts import KINDS, compiles, is_valid_json, of_replicate
from swarm.experiments.spec import TrialSpec
from swarm.kernels.errors import SpecError
from swarm.kernels.model_cache import make_cache
from swarm.kernels.spec import KVSpec, QuantSpec

CONTEXT = 256


def affine(bits):
    quant = QuantSpec(method="affine", bits=bits, group_size=32)
    return KVSpec(key=quant, value=quant)


@pytest.fixture
def measure(runner, tiny_models):
    def run(kv=None, family="llama", **fields):
        spec = {"model": tiny_models[family], "context": CONTEXT, "protocol": "generation", "kv": kv or KVSpec()}
        return runner.run(TrialSpec(**{**spec, **fields}))

    return run


@pytest.mark.parametrize("rung", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_16_bit_run_never_parts_and_fewer_bits_part_earlier(measure, rung):
    exact = measure(rung=rung)
    assert exact["kld"] == exact["late_kld"] == 0
    assert exact["unparted"] == 1
    assert exact["tokens_until_parting"] == exact["answer_tokens_16bit"] > CONTEXT // 4
    if rung:
        for name in ("repetition", "degenerate", "valid_json", "compiles"):
            assert exact[name] == exact[f"{name}_16bit"]
    few, many = (measure(affine(bits), rung=rung) for bits in (2, 8))
    assert few["kld"] > many["kld"] > 0
    assert few["tokens_until_parting"] < many["tokens_until_parting"]
    assert len(few.arrays["window_kld"]) == len(KINDS)


def test_answers_go_on_where_decoding_token_by_token_goes(runner, tiny_models):
    kv = affine(3)
    spec = TrialSpec(model=tiny_models["llama"], context=CONTEXT, protocol="generation", kv=kv)
    subject = runner.subject(spec.model)
    run = subject.shared(GenerationRun, spec)
    model = subject.loaded.model
    parted = run.parted(run.along(make_cache(model, kv), spec))
    answers, _ = run.free(make_cache(model, kv), spec, parted)
    row = int(np.argmin(parted[::2] - run.starts[::2])) * 2  # a greedy row that parts early
    prompt = run.tokens[row, : run.starts[row]]
    caches = make_cache(model, kv)
    logits = model(mx.array(prompt[None]), cache=caches)
    expected = []
    for _ in range(len(answers[row])):
        expected.append(int(mx.argmax(logits[0, -1])))
        logits = model(mx.array([[expected[-1]]]), cache=caches)
    same = parted[row] - run.starts[row]
    assert answers[row][:same] == run.tokens[row, run.starts[row] : parted[row]].tolist() == expected[:same]
    assert answers[row] == expected
    assert answers[row][same] != run.tokens[row, parted[row]]


def test_sampled_rows_follow_their_distribution():
    """Gumbel noise gives each token the share that its softmax at the temperature has."""
    logits = np.log(np.array([0.5, 0.3, 0.2], np.float32)) * generation_run.TEMPERATURE
    decoder = generation_run.Decoder(None, 3, [])
    drawn = np.bincount([decoder.choice(1, place, logits) for place in range(4000)], minlength=3) / 4000
    np.testing.assert_allclose(drawn, [0.5, 0.3, 0.2], atol=0.03)


@pytest.mark.parametrize("spread", [0.01, 1, 4, 30])
@pytest.mark.parametrize("vocabulary", [2, 300, 5000])
def test_sampled_tokens_are_those_that_noise_on_every_token_gives(spread, vocabulary):
    decoder = generation_run.Decoder(None, 3, [])
    for place in range(40):
        logits = np.random.default_rng(place).normal(0, spread, vocabulary).astype(np.float32)
        noise = np.random.default_rng([3, 1, place]).gumbel(size=vocabulary)
        assert decoder.choice(1, place, logits) == (logits / generation_run.TEMPERATURE + noise).argmax()


@pytest.mark.parametrize("replicate", range(3))
def test_every_replicate_has_a_prompt_of_each_kind(replicate):
    prompts = of_replicate(replicate)
    assert tuple(prompt.kind for prompt in prompts) == KINDS
    filled = [prompt.filled(replicate, "some text") for prompt in prompts]
    assert not any("{" in text for text in filled)
    assert "some text" in filled[-1]
    assert filled != [prompt.filled(replicate + 2, "some text") for prompt in of_replicate(replicate + 2)]


@pytest.mark.parametrize(
    ("answer", "valid"),
    [
        ('{"title": "x", "price": 1.5, "parts": ["a"], "sold": true}', True),
        ('Here: ```json\n{"title": "x", "price": 2, "parts": [], "sold": false}\n``` done', True),
        ('{"title": "x", "price": "2", "parts": [], "sold": false}', False),
        ('{"title": "x", "price": 2, "parts": [1], "sold": false}', False),
        ('{"title": "x", "price": 2, "parts": []}', False),
        ('{"title": "x", "price": 2, "parts": [], "sold": false, "more": 1}', False),
        ('{"title": "x", "price": 2, "parts": [], "sold": fal', False),
        ("[" * 100_000 + "{", False),
        ('{"title":' + "[" * 100_000, False),
        ("no object", False),
    ],
)
def test_json_is_valid_when_it_has_what_was_asked(answer, valid):
    (prompt,) = [prompt for prompt in of_replicate(0) if prompt.kind == "json"]
    assert is_valid_json(answer, prompt) is valid


@pytest.mark.parametrize(
    ("answer", "ended", "valid"),
    [
        ("def f():\n    return 1\n", True, True),
        ("Sure!\n```python\nx = 1\n```\nThat is it.", True, True),
        ("Sure! Here is code.", True, False),
        ("```python\ndef f():\n    return (1\n```", True, False),
        ("def f():\n    return 1\n\ndef g():\n    return (", False, True),
        ("def f():\n    return 1\n\ndef g():\n    return (", True, False),
        ("def g():\n    return (", False, False),
        ("x = 1\0", True, False),
        ("(" * 5000, True, False),
        ("", True, False),
    ],
)
def test_code_compiles_and_is_never_run(answer, ended, valid):
    assert compiles(answer, ended=ended) is valid


def test_code_is_not_executed(tmp_path):
    file = tmp_path / "made"
    assert compiles(f"open({str(file)!r}, 'w').close()", ended=True)
    assert not file.exists()


@pytest.mark.parametrize(("context", "problem"), [(128, "too short"), (100_000, "more than")])
def test_contexts_that_cannot_be_are_refused(measure, context, problem):
    with pytest.raises(SpecError, match=problem):
        measure(context=context)


@pytest.mark.slow
def test_a_real_model_answers(runner):
    spec = TrialSpec(model="smollm2-135m", context=512, protocol="generation", rung=1, kv=affine(2))
    found = runner.run(spec)
    assert found["answer_tokens_16bit"] > 32
    assert found["tokens_until_parting"] < 32
