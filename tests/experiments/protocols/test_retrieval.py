"""Retrieval: the puzzles, the texts they are hidden in, and answers beside those of the 16-bit run."""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest
from scipy.special import log_softmax

from swarm.experiments.measurement.haystack import KINDS, puzzles
from swarm.experiments.measurement.reference_run import layer_arrays
from swarm.experiments.measurement.retrieval_run import RetrievalRun
from swarm.experiments.spec import TrialSpec
from swarm.kernels.errors import SpecError
from swarm.kernels.model_cache import make_cache
from swarm.kernels.spec import KVSpec, QuantSpec

CONTEXT = 1536


def affine(bits):
    quant = QuantSpec(method="affine", bits=bits, group_size=32)
    return KVSpec(key=quant, value=quant)


@pytest.fixture(scope="module")
def longer(tiny_models, tmp_path_factory):
    """A tiny model whose tokenizer has one token per byte, with room for facts of every kind."""
    folder = tmp_path_factory.mktemp("longer") / "model"
    shutil.copytree(tiny_models["llama"], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 2 * CONTEXT}))
    return str(folder)


@pytest.fixture
def measure(runner, longer):
    def run(kv=None, **fields):
        spec = TrialSpec(
            **{"model": longer, "context": CONTEXT, "protocol": "retrieval", "kv": kv or KVSpec(), **fields}
        )
        return runner.run(spec)

    return run


@pytest.mark.parametrize("number", range(8))
def test_every_text_asks_for_each_kind_what_its_facts_say(number):
    found = list(puzzles(number))
    assert tuple(puzzle.kind for puzzle in found) == KINDS
    for puzzle in found:
        facts = [fact.text for fact in sorted(puzzle.facts, key=lambda fact: fact.depth)]
        assert all(0 <= fact.depth < 1 for fact in puzzle.facts)
        for question in puzzle.questions:
            assert question.kind == puzzle.kind
            assert _solve(puzzle.kind, question, facts) == question.answer.strip()
    assert list(puzzles(number)) == found
    assert list(puzzles(number + 1)) != found


def _solve(kind, question, facts):
    """The answer as somebody finds it who reads the facts alone."""
    if kind in ("single", "multi_key"):
        (answer,) = [fact.split(" is ")[1].rstrip(".") for fact in facts if fact.strip().startswith(question.lead)]
        return answer
    if kind == "multi_value":
        return ", ".join(fact.split(" is ")[1].rstrip(".") for fact in facts)
    if kind == "tracing":
        sources = dict(fact.removeprefix(" VAR ").rstrip(".").split(" = ") for fact in facts)
        way = [sources[question.lead.removesuffix(" =").split()[-1]]]
        while way[-1] in sources:
            way.append(sources[way[-1]])
        return " = ".join(way)
    words = [fact.split(": ")[1].rstrip(".") for fact in facts]
    return max(set(words), key=words.count)


def test_single_facts_of_many_texts_lie_at_all_depths():
    depths = sorted(next(puzzles(number)).facts[0].depth for number in range(40))
    assert max(np.diff([0.0, *depths, 1.0])) < 0.1


@pytest.mark.parametrize("rung", [0, 1])
def test_the_16_bit_run_loses_nothing_and_more_bits_lose_less(measure, rung):
    exact = measure(rung=rung)
    assert exact["delta_nll"] == 0
    assert exact["answered"] == exact["answered_16bit"]
    assert exact["bits_per_value"] == 16
    losses = [abs(measure(affine(bits), rung=rung)["delta_nll"]) for bits in (2, 8)]
    assert losses[0] > losses[1] > 0


def test_readings_are_those_of_answering_token_by_token(runner, longer, measure):
    kv = affine(4)
    found = measure(kv, seed=3)
    subject = runner.subject(longer)
    run = subject.shared(RetrievalRun, TrialSpec(model=longer, context=CONTEXT, protocol="retrieval"))
    model, tokens = subject.loaded.model, np.array(run.capture["tokens"])
    questions, lengths = np.array(run.capture["questions"]), np.array(run.capture["lengths"])
    start = questions.shape[2] - lengths.max()
    row, number = 1, 2
    exact, cache = make_cache(model), make_cache(model, kv, seed=3)
    for first in range(0, tokens.shape[1], 128):
        model(mx.array(tokens[row : row + 1, first : first + 128]), cache=exact)
    for layer, (keys, values) in enumerate(
        zip(*(layer_arrays(run.capture, name) for name in ("keys", "values")), strict=True)
    ):
        cache[layer].append(keys[row : row + 1], values[row : row + 1])
    asked = questions[row : row + 1, number]
    answer = asked[0, start : start + lengths[row, number]]
    for caches, series in ((exact, "item_p_16bit"), (cache, "item_p")):
        logits = model(mx.array(asked[:, :start]), cache=caches)[:, -1:]
        total = 0.0
        for token in answer:
            total += log_softmax(np.array(logits[0, -1], np.float64))[token]
            logits = model(mx.array([[int(token)]]), cache=caches)
        item = found.arrays[series][row * questions.shape[1] + number]
        assert np.log(item) == pytest.approx(total, rel=1e-2)


def test_the_facts_are_in_the_text_and_the_answer_follows_the_question(runner, longer):
    subject = runner.subject(longer)
    for replicate in (0, 3):
        spec = TrialSpec(model=longer, context=CONTEXT, protocol="retrieval", replicate=replicate)
        run = subject.shared(RetrievalRun, spec)
        tokens, asked = np.array(run.capture["tokens"]), np.array(run.capture["questions"])
        assert tokens.shape[1] + asked.shape[2] == CONTEXT
        decode = subject.loaded.tokenizer.decode
        for row in range(len(tokens)):
            text = decode(tokens[row].tolist())
            hidden = list(puzzles(4 * replicate + row))
            questions = [question for puzzle in hidden for question in puzzle.questions]
            assert all(fact.text in text for puzzle in hidden for fact in puzzle.facts)
            for question, line in zip(questions, asked[row], strict=True):
                assert question.lead + question.answer in decode(line.tolist())


def test_a_model_that_cannot_do_the_task_is_said_as_such(measure):
    found = measure(affine(2))
    assert found["answered_16bit"] == 0, "a model with random weights answered"
    assert "cannot do this task" in found.notes
    assert {metric.name for metric in found.metrics} & {"kept", "lost_p"} == set()


@pytest.mark.parametrize(("context", "problem"), [(64, "too short for retrieval"), (4096, "longer than")])
def test_contexts_that_cannot_be_are_refused(measure, context, problem):
    with pytest.raises(SpecError, match=problem):
        measure(context=context)


def test_a_context_without_room_for_a_question_says_what_is_needed(runner, longer):
    spec = TrialSpec(model=longer, context=150, protocol="retrieval")
    with pytest.raises(SpecError, match=r"needs [0-9]+ tokens"):
        RetrievalRun.of(spec, runner.subject(longer))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["smollm2-135m", "gemma3-270m"])
def test_real_models_answer_and_low_bits_lose(runner, model):
    spec = TrialSpec(model=model, context=1024, protocol="retrieval")
    exact = runner.run(spec)
    assert exact["answered_16bit"] > 0.3
    assert exact["kept"] == 1
    assert runner.run(spec.model_copy(update={"kv": affine(2)}))["kept"] < 0.5
