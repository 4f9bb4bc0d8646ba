"""`swarm plan` as people run it."""

from __future__ import annotations

import json

import pytest

from swarm.kernels import plugins
from swarm.kernels.quantizers import base

MAC = ("--machine", "m4 max", "--memory", "64")


def test_it_reproduces_the_well_known_arithmetic(cli):
    done = cli("plan", "--model", "llama 3.1 8b", *MAC)
    assert done.code == 0
    assert "GQA: 32 query heads share 8 KV heads" in done.out
    none = next(line for line in done.out.splitlines() if line.startswith("none"))
    assert none.split()[1:6] == ["16", "128KiB", "2GiB", "8GiB", "16GiB"]
    done = cli("plan", "--model", "llama 3.1 70b", "--memory", "64", "--kv", "5", "--context", "128K")
    assert done.code == 0
    lines = {line.split("  ")[0]: line.split() for line in done.out.splitlines() if "KiB" in line}
    assert lines["none"][2:4] == ["320KiB", "40GiB*"]
    assert lines["5 bits/value"][3:5] == ["100KiB", "12.5GiB"]


def test_every_method_is_listed_and_speeds_are_called_predictions(cli):
    out = cli("plan", "--model", "llama 3.1 8b", *MAC).out
    for name in plugins.names(base.PACKAGE):
        assert name in out
    assert "Predicted decode speed" in out


def test_json_carries_the_whole_answer(cli):
    done = cli("plan", "--model", "gemma 3 27b", *MAC, "--kv", "affine", "--json")
    found = json.loads(done.out)
    assert done.code == 0
    assert {layer["window"] for layer in found["model"]["layer_groups"]} == {1024, None}
    assert sum(layer["count"] for layer in found["model"]["layer_groups"]) == 62
    assert [row["bits_per_value"] for row in found["methods"]] == sorted(
        (row["bits_per_value"] for row in found["methods"]), reverse=True
    )
    for row in found["methods"]:
        for cost in row["costs"]:
            total = found["weights"]["n_bytes"] + found["overhead_bytes"] + cost["kv_bytes"]
            assert cost["total_bytes"] == total
            assert cost["fits"] == (total <= found["machine"]["usable"])


def test_a_context_beyond_the_trained_window_is_marked(cli):
    out = cli("plan", "--model", "smollm2-135m", "--memory", "8", "--kv", "q8_0", "--context", "4K").out
    assert "beyond the trained window of 8K: 4K" not in out
    out = cli("plan", "--model", "smollm2-135m", "--memory", "8", "--kv", "q8_0", "--context", "16K").out
    assert "beyond the trained window of 8K: 16K" in out
    assert "360MiB~" in out


def test_sinks_and_recent_tokens_cost_memory(cli):
    sizes = []
    for extra in ((), ("--sinks", "4", "--recent", "128")):
        out = cli("plan", "--model", "llama 3.1 8b", "--memory", "8", "--kv", "affine4", *extra, "--json").out
        sizes.append(json.loads(out)["methods"][-1]["costs"][0]["kv_bytes"])
    assert sizes[1] - sizes[0] == 132 * (128 - 36) * 1024


def test_this_machine_is_the_default(cli):
    done = cli("plan", "--model", "smollm2-135m", "--kv", "none", "--json")
    assert done.code == 0
    assert json.loads(done.out)["machine"]["memory"] > 1 << 30


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--model", "gpt-7"), "unknown model 'gpt-7'"),
        (("--model", "mixtral"), "Say which"),
        (("--model", "phi-4", "--machine", "m9"), "unknown machine 'm9'"),
        (("--model", "phi-4", "--machine", "m4 max"), "36, 48, 64, 128 GB"),
        (("--model", "phi-4", "--memory", "lots"), "no size of memory"),
        (("--model", "phi-4", "--memory", "8", "--bandwidth", "-1"), "--bandwidth"),
        (("--model", "phi-4", "--memory", "8", "--context", "ten"), "no number of tokens"),
        (("--model", "phi-4", "--memory", "8", "--kv", "magic"), "'magic': unknown method"),
        (("--model", "phi-4", "--memory", "8", "--weights-bits", "0"), "--weights-bits"),
        (("--memory", "8"), "--model"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(cli, args, said):
    done = cli("plan", *args)
    assert (done.code, done.out) == (2, "") or (done.code, said) == (1, "Say which")
    assert said in done.err
    assert done.err.count("\n") == 1
