"""The arms with an LLM, replayed with a server that plays one."""

from __future__ import annotations

import json
import re

import pytest
from benchmarks import _frame, _llm, _llm_arms, _llm_page
from llm_server import says, serving

from swarm.agents.llm.endpoint import LlmSettings

BUDGET = 40
_KEYS, _VALUES = "outlier channels of keys", "outlier channels of values"


class Proposer:
    """Proposes configurations of the table, others at every turn; the other roles say nothing."""

    def __init__(self) -> None:
        self.turn = 0

    def __call__(self, body) -> str:
        if "the proposer of" not in body["messages"][0]["content"]:
            return "Let me think."
        self.turn += 1
        kinds = ("affine4/g64", "affine3/g64+hadamard", "affine8/g64+hadamard", "nvfp4", "iq4_nl")
        kv = [f"K {kinds[self.turn % 5]} V {kinds[self.turn // 5 % 5]} sink4{end}" for end in ("", " recent32")]
        return json.dumps({"proposals": [{"model": "smollm2-135m", "kv": one, "rationale": "x"} for one in kv]})


@pytest.mark.slow
def test_every_arm_is_replayed_once_and_compared_with_its_like() -> None:
    arms = (*_llm_arms.PLAIN, *_llm_arms.WITH_LLM)
    jobs = [(arm, seed, "smollm2-135m") for arm in arms for seed in range(2)]
    with serving() as server:
        server.plan = [says(Proposer())]
        settings = LlmSettings(llm=server.url, llm_model="test", llm_tools=False)
        lines = list(_llm_arms.replays(settings, "test", jobs, BUDGET, []))
        assert list(_llm_arms.replays(settings, "test", jobs, BUDGET, lines)) == []
    assert len(lines) == 2 * (len(_llm_arms.PLAIN) + len(_llm_arms.WITH_LLM))
    for line in lines:
        assert len(line["regret"]) == BUDGET
        assert sorted(line["regret"], reverse=True) == line["regret"]
        assert bool(line["report"]) == bool(line["llm"]) == (line["arm"] in _llm_arms.WITH_LLM)
        assert not line["llm"] or line["report"]["usable"] > 0
    shown = _llm_page.page({"answers": [], "arms": [json.loads(json.dumps(line)) for line in lines]})
    for arm, (others, _) in _llm_arms.WITH_LLM.items():
        for other in others:
            assert f"| {other} | - | 2 |" in shown
            assert re.search(rf"\| {re.escape(arm)} \| test \| 2 \| [0-9.]+ \| {other} \|", shown)


def test_an_interval_of_trials_saved_says_when_there_are_none() -> None:
    line = {"model": "m", "budget": 3, "regret": [0.3, 0.2, 0.1], "seconds": 1.0, "report": {}}
    arms = [("TPE", ""), (next(arm for arm in _llm_arms.WITH_LLM if "TPE" in arm), "x")]
    lines = [line | {"arm": arm, "llm": llm, "seed": seed} for arm, llm in arms for seed in range(3)]
    shown = _llm_page.page({"answers": [], "arms": lines})
    assert "| TPE | 3 | +0.0 (+0.0 to +0.0) | not told from none |" in shown
    assert "| LLM alone | x | random | 0 |  | not measured yet |" in shown


def test_paths_of_the_machine_do_not_get_into_a_record() -> None:
    label = "K kivi2/g32/channel V affine4/g64 at http://127.0.0.1:80/v1/models"
    record = {
        "llm": {"model": "/home/some.one/models/small-0.5b.gguf"},
        "said": [f"no file /a/b/c.txt: {label}", 1, None],
    }
    assert _llm_page.without_paths(record) == {
        "llm": {"model": "small-0.5b.gguf"},
        "said": [f"no file c.txt: {label}", 1, None],
    }


def test_answers_are_counted_by_role_and_model() -> None:
    line = {"llm": "x", "role": "scout", "tokens_in": 900, "tokens_cached": 400, "tokens_out": 60, "seconds": 9.0}
    lines = [line | {"outcome": outcome} for outcome in ("ok", "wrong", "invalid_again", "timeout")]
    shown = _llm_page.page({"answers": lines, "arms": []})
    assert "| scout | 4 | 2 (50.0%) | 1 | 900 | 400 | 60 | 9.0 |" in shown
    assert "Not measured yet." in shown


@pytest.mark.slow
def test_questions_go_on_where_an_earlier_run_ended(tmp_path, monkeypatch) -> None:
    earlier, out = tmp_path / "earlier.jsonl", tmp_path / "out.jsonl"
    lines = [{"llm": "test", "role": "proposer"}, {"llm": "other", "role": "proposer"}]
    earlier.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with serving() as server:
        server.plan = [says(Proposer())]
        words = ["--llm", server.url, "--llm-model", "m", "--name", "test", "--roles", "proposer", "--calls", "2"]
        monkeypatch.setattr("sys.argv", ["x", *words, "--done", str(earlier), "--out", str(out)])
        for _ in range(2):
            assert _llm.main() == 0
    (line,) = _frame.whole_lines(out)
    assert (line["llm"], line["role"], line["outcome"]) == ("test", "proposer", "ok")
    assert "revision" in line


def test_campaigns_are_shown_side_by_side() -> None:
    spent = {name: {"spent": value} for name, value in (("seconds", 220.4), ("worker_seconds", 430.0), ("tokens", 9e3))}
    plain = {"trials": {"complete": 329, "failed": 1, "waiting": 3}, "spend": spent, "llm": None}
    told = {"answers": 12, "usable": 11, "kept": 9, "seconds": 17.25}
    longer = plain | {"llm": told, "spend": spent | {"seconds": {"spent": 231.42}}}
    shown = _llm_page.page({"answers": [], "arms": [], "campaigns": {"with": longer, "without": plain}})
    assert "| without | 330 | 220 | 430 |  |  |  |  |  | 9,000 |" in shown
    assert "| with | 330 | 231 | 430 | 1.05 | 12 | 11 | 9 | 17.2 | 9,000 |" in shown


def test_what_the_scribe_adds_stands_below_the_built_in_text() -> None:
    line = {"campaign": "c, 60 trials", "built_in": "# Title\n\n- One.", "refused": ["x", "y"]}
    lines = [line | {"llm": "small", "kept": []}, line | {"llm": "large", "kept": ["Worth knowing: A beats B."]}]
    shown = _llm_page.page({"answers": [], "arms": [], "scribe": lines})
    assert shown.count("> **Title**\n>\n> - One.") == 1
    assert "small adds, 2 sentences or answers refused:\n\n> Nothing." in shown
    assert "> Worth knowing: A beats B." in shown


def test_planted_causes_are_counted_by_who_named_them_and_by_side() -> None:
    line = {"base": "a", "planted": "x", "offered": 10, "llm": "small", "contrast": "c", "named": _KEYS}
    lines = [
        line | {"seed": 0, "cause": _KEYS, "suspected": _KEYS, "tested": [_KEYS]},
        line | {"seed": 0, "contrast": "d", "cause": _KEYS, "suspected": _KEYS, "tested": [_KEYS]},
        line | {"seed": 1, "cause": _VALUES, "suspected": _VALUES, "tested": []},
        line | {"seed": 2, "cause": _VALUES, "suspected": _VALUES, "tested": [_KEYS, _VALUES], "named": ""},
    ]
    shown = _llm_page.page({"answers": [], "arms": [], "twins": lines})
    assert re.search(r"\| small \| 4 \| 0.33 \(.*\) \| 2 of 2 \| 0 of 2 \|", shown)
    assert "| built-in, from captures | 4 | 1.00 (1.00 to 1.00) | 2 of 2 | 2 of 2 |" in shown
    assert re.search(r"\| built-in, by trials \| 4 \| 0.33 \(.*\) \| 2 of 2 \| 0 of 2 \|", shown)
    assert "| chance | 4 | 0.10 |  |  |" in shown
