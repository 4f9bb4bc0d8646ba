"""Questions about twins with planted causes: what is recorded of them, what an LLM is shown, and what is kept of it."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
from llm_server import says, serving

from swarm.agents.llm.roles.base import CAUSES, roles
from swarm.experiments.models import registry
from swarm.experiments.spec import TrialSpec
from swarm.kernels.spec import KVSpec
from swarm.memory.records import Proposal

planted = importlib.import_module("benchmarks._planted")
twins_rows = importlib.import_module("benchmarks._twins_rows")
llm_twins = importlib.import_module("benchmarks._llm_twins")
BASE, CONTEXT = "smollm2-135m", 128
KEYS = "outlier channels of keys"


@pytest.fixture
def row():
    """A twin whose keys per token do worse than the model's."""
    lab = (
        importlib.import_module("benchmarks._from_tests")
        .load("agents/conftest")
        .Laboratory(
            law=lambda spec: 2.0 * (spec.model == planted.TWIN and "channel" not in spec.kv.key.label),
        )
    )
    kvs = ["K affine4/g64 V affine4/g64", "K kivi4/g64/channel V affine4/g64", "K affine2/g64 V none"]
    specs = [TrialSpec(model=m, kv=KVSpec.parse(kv), context=CONTEXT) for kv in kvs for m in (BASE, planted.TWIN)]
    looks = [TrialSpec(model=m, kv=specs[0].kv, context=CONTEXT, protocol="attention") for m in (BASE, planted.TWIN)]
    records = [lab.run(n, Proposal(spec=spec, proposer="x")) for n, spec in enumerate((*specs, *looks))]
    for n, size in ((-2, 1.3), (-1, 3.0)):
        records[n] = records[n].model_copy(update={"metrics": {}, "arrays": {"layer_key_imbalance": (size,) * 30}})
    about = {"seed": 0, "base": BASE, "planted": "keys outliers x5", "cause": KEYS, "suspected": KEYS, "tested": [KEYS]}
    dumped = [record.model_dump(mode="json", exclude_defaults=True) for record in records]
    return about | {"context": CONTEXT, "records": json.loads(json.dumps(dumped))}


def test_a_contrast_is_shown_by_its_own_trials_and_by_captures(row) -> None:
    found = list(llm_twins.contrasts(row, registry.describe(BASE)))
    assert found
    role = roles()["cross_referencer"]
    for key, context in found:
        assert key.startswith("contrast:kld:")
        assert {model for model, _ in context.results} == {BASE, planted.TWIN}
        assert len({kv for _, kv in context.results}) == 2
        text = llm_twins.brief(context, role.task(context), 1_200, role.reads)
        told = json.loads(text.partition("```json\n")[2].removesuffix("\n```"))
        assert told["captures"] == {BASE: {KEYS: [1.3, 1.3]}, planted.TWIN: {KEYS: [3.0, 3.0]}}
        assert set(told["task"]["trials"]) == {BASE, planted.TWIN}
        assert role.choices(context, 1) is not None


def test_what_an_llm_names_is_kept_once(row, tmp_path, monkeypatch) -> None:
    (tmp_path / "rows-1.jsonl").write_text(json.dumps(row) + "\n")
    question = {"better_trial": 2, "worse_trial": 1, "other_model": BASE, "expectation": "opposite"}
    with serving() as server:
        server.plan = [says(json.dumps({"questions": [question | {"cause": "head size", "because": "x"}]}))]
        out = tmp_path / "out.jsonl"
        arguments = ["--llm", server.url, "--llm-model", "m", "--name", "small", "--times", "2"]
        monkeypatch.setattr(sys, "argv", ["x", *arguments, "--folder", str(tmp_path), "--out", str(out)])
        for _ in range(2):
            assert llm_twins.main() == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(lines) == len({(line["contrast"], line["time"]) for line in lines}) > 0
    for line in lines:
        assert (line["llm"], line["named"], line["cause"], line["offered"]) == ("small", "head size", KEYS, len(CAUSES))


@pytest.mark.slow
def test_a_twin_is_recorded_with_its_model_measured_once(tiny_models) -> None:
    base = tiny_models["llama"]
    first, second = (twins_rows.recorded(seed, {base: Path(base)}, 8, 64) for seed in (0, 7))
    for row in (first, second):
        assert row["cause"] == KEYS
        assert {record["spec"]["model"] for record in row["records"]} == {base, planted.TWIN}
        assert all(record["metrics"].keys() <= {"kld", "bits_per_value"} for record in row["records"])
    ours = [[r for r in row["records"] if r["spec"]["model"] == base] for row in (first, second)]
    assert ours[0] == ours[1]
