"""A campaign with something for every section of the pages, made through the store; some of its text is hostile."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import samples
from conftest import model_info

from swarm.experiments.spec import Measurement, Metric
from swarm.memory.records import AgentCall, Budget, Effect, Prediction, Score, Summary
from swarm.memory.store import Store

MODELS = ("alpha", "beta<img src=x onerror=window.pwned=1>")
HOSTILE = (
    "<script>window.pwned=2</script></script><script>window.pwned=3</script> [x](javascript:window.pwned=4) "
    '<a href="javascript:window.pwned=5">y</a> ![z](http://127.0.0.1:9/z.png) {{7*7}} {% raw %} \ue0000\ue001 </td>'
)
SUMMARY = (
    "# What was found <script>window.pwned=6</script>\n\nTrial {trial:1:label} has {trial:1:kld} at "
    "{trial:1:bits_per_value} bits/value; {finding:1:statement} {finding:1:effect} ({finding:1}). "
    "{fact:trials.complete} trials completed. Gone: {trial:99999:kld}.\n\n| trial | KLD |\n|---|---|\n"
    "| {trial:2} | {trial:2:kld} |\n\n[click](javascript:window.pwned=7) <b onmouseover=window.pwned=8>z</b> "
    "![i](http://127.0.0.1:9/i.png) [out](http://127.0.0.1:9/)\n"
)
LAYERS = 6
LONG = {"context": {"kld_at_512": 0.01, "kld_at_2048": 0.04}, "retrieval": {"kept": 0.9}}


@dataclass(frozen=True)
class Filled:
    """What was made."""

    campaign: int
    finding: int
    summary: int
    trials: int


def fill(store: Store, *, finish: bool = True) -> Filled:
    """Fill an empty store with one campaign."""
    campaign = store.campaigns.create("night", {"models": list(MODELS), "workers": 2}, Budget(trials=100), 7)
    rng = np.random.default_rng(0)
    with store.batch():
        for name in MODELS:
            store.models.register(model_info(name, n_layers=LAYERS))
        number = 0
        for index in range(14):
            for model in MODELS:
                arm = ("defaults", "control", "agents")[min(index // 2, 1 + index % 2)]
                bits = (2, 3, 4, 5, 6, 8)[index % 6]
                proposal = samples.proposal(index, model, bits, arm=arm, proposer=f"who{index % 3}", rationale=HOSTILE)
                kld = float(4.0**-bits * rng.uniform(0.5, 2))
                _complete(store, campaign.id, number, proposal, samples.measurement(kld, bits + 0.5, same_top1=0.9))
                number += 1
        for layers in ((0,), (0, 1), (0, 1, 2, 3), (3,)):
            proposal = samples.proposal(number, layers=layers, protocol="depth")
            result = samples.measurement(0.01 * len(layers), 12.0, hidden_rel_error=0.1)
            _complete(store, campaign.id, number, proposal, result)
            number += 1
        for layers in (None, (2,)):
            proposal = samples.proposal(number, layers=layers, protocol="attention")
            timed = TIMES if layers is None else ()
            _complete(store, campaign.id, number, proposal, _attention(layers or tuple(range(LAYERS)), timed))
            number += 1
        for bits in (4, 8):
            for protocol in ("context", "retrieval"):
                proposal = samples.proposal(number, MODELS[1], bits, protocol=protocol, context=2048)
                result = samples.measurement(4.0**-bits, bits + 0.5, **LONG[protocol])
                _complete(store, campaign.id, number, proposal, result)
                number += 1
        prediction = Prediction(metric="kld", comparator="<=", threshold=0.9, reference=1)
        proposal = samples.proposal(number, MODELS[1], 5, prediction=prediction, rationale=HOSTILE)
        predicted = _complete(store, campaign.id, number, proposal, samples.measurement(0.002, 5.5))
        store.predictions.score(predicted, Score(verdict="confirmed", observed=0.5, low=0.3, high=0.8))
        failing = store.propose(campaign.id, number + 1, samples.proposal(number + 1, bits=2))
        samples.fail(store, store.queue.claim(failing.id, "worker"), "oom", HOSTILE)
        effect = Effect(name="ratio of <i>KLD</i> ratios", value=0.3, low=0.2, high=0.5, unit="ratio")
        found = samples.finding(
            1, 2, predicted, statement=f"Plateau {HOSTILE}", effect=effect, models=MODELS, kind="contrast"
        )
        finding = store.findings.upsert(campaign.id, found).id
        child = samples.proposal(number + 2, parents=(finding,), rationale="Built on a finding.")
        _complete(store, campaign.id, number + 2, child, samples.measurement(0.003, 4.5))
        call = AgentCall(role="scribe", prompt_hash="0" * 64, model="some<b>", tokens_in=9, tokens_out=4, outcome="ok")
        store.agent_calls.add(campaign.id, call)
        store.events.add(campaign.id, "worker.crash", HOSTILE)
    summary = store.summaries.add(
        campaign.id, Summary(title=HOSTILE[:190], text=SUMMARY, evidence=(1, 2), author="scribe")
    ).id
    if finish:
        store.campaigns.finish(campaign.id, "complete")
    return Filled(campaign.id, finding, summary, number + 3)


TIMES = tuple(
    Metric(name=f"{name}_at_{context}", value=value, unit="us", n=9)
    for name, value in (("decode_us", 42.5), ("decode_us_sdpa16", 99.0))
    for context in (8_192, 131_072)
)


def _complete(store: Store, campaign: int, number: int, proposal, result: Measurement) -> int:
    kld = next((metric.value for metric in result.metrics if metric.name == "kld"), None)
    if kld is not None:  # windows that agree with their mean, as a protocol's do
        result = result.model_copy(update={"arrays": {**result.arrays, "window_kld": (kld / 2, kld, 1.5 * kld)}})
    trial = store.propose(campaign, number, proposal)
    samples.complete(store, store.queue.claim(trial.id, "worker"), result)
    return trial.id


def _attention(layers: tuple[int, ...], timed: tuple[Metric, ...]) -> Measurement:
    values = tuple(0.1 * (1 + layer) for layer in layers)
    result = samples.measurement(0.1, 4.5)
    metrics = (Metric(name="g", value=0.3, n=4, stderr=0.01), Metric(name="bits_per_value", value=4.5), *timed)
    arrays = {
        "layer_g": values,
        "layer_output_rel_error": values,
        "layer_head_g": tuple(v for v in values for _ in "ab"),
    }
    return result.model_copy(update={"metrics": metrics, "arrays": arrays})
