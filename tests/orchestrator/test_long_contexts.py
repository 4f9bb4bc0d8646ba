"""Which long context a campaign tries its finalists at, and why there is none."""

import pytest

from swarm.experiments.models import registry
from swarm.kernels.errors import UsageError
from swarm.orchestrator import long_contexts, machine, settings
from swarm.orchestrator.workload import Workload

MODEL = "smollm2-135m"
LARGE = 300


def workload(**fields):
    return Workload((MODEL,), {}, [registry.describe(MODEL).model_copy(update={"max_context": 8192, **fields})])


def settle(workers=1, given=None, **flags):
    return long_contexts.settle(settings.load(**flags), given or workload(), workers)


@pytest.mark.parametrize(
    ("flags", "tokens"),
    [
        ({"budget": LARGE}, 2048),
        ({"budget": long_contexts.LEAST_BUDGET - 1}, None),
        ({"budget": 12, "long": "1K"}, 1024),
        ({"budget": 12, "protocols": "generation"}, 2048),
        ({"budget": 12, "protocols": "generation", "long": "off"}, None),
        ({"budget": LARGE, "long": "off"}, None),
        ({"budget": LARGE, "long": "8K"}, 8192),
        ({"budget": LARGE, "agenda": "open-tq-metal"}, None),
        ({"budget": LARGE, "engine": "llama.cpp"}, None),
    ],
)
def test_finalists_are_tried_at_2k_unasked_where_a_campaign_can_afford_it(flags, tokens):
    found, left_out = settle(**flags)
    assert (found.long, left_out) == (tokens, "")
    assert found.for_agents().long == tokens


def test_what_is_too_short_is_left_out_unasked_and_refused_when_asked(tmp_path):
    text = tmp_path / "text"
    text.write_text("A short sentence. " * 2_000)
    found, left_out = settle(budget=LARGE, corpus=str(text))
    assert found.long is None
    assert "too short" in left_out
    with pytest.raises(UsageError, match="too short"):
        settle(budget=LARGE, corpus=str(text), long="8K")
    found, left_out = settle(budget=LARGE, given=workload(max_context=512))
    assert (found.long, left_out) == (None, left_out)
    assert "512" in left_out
    with pytest.raises(UsageError, match="512"):
        settle(given=workload(max_context=512), long="2K")
    with pytest.raises(UsageError, match=r"--long=16384 is longer.*Use 8192"):
        settle(long="16K")


@pytest.mark.parametrize("name", ["nothing", "depth", "engine"])
def test_protocols_that_measure_no_whole_configuration_are_refused_with_those_that_do(name):
    with pytest.raises(UsageError, match=rf"{name}.*generation, quality, retrieval"):
        settle(long="2K", protocols=f"retrieval,{name}")


def test_memory_that_does_not_suffice_is_said_with_what_is_needed(monkeypatch):
    monkeypatch.setattr(machine, "memory", lambda: 3 * machine.GIB)
    assert settle(long="2K")[0].long == 2048
    with pytest.raises(long_contexts.TooLargeError, match=r"need 2\.\d+ GiB of memory per worker.*1 workers has 2 GiB"):
        settle(long="8K")
    with pytest.raises(long_contexts.TooLargeError, match="2 workers has 1 GiB"):
        settle(workers=2, long="8K")
    found, left_out = settle(workers=3, budget=LARGE)
    assert found.long is None
    assert "GiB of memory" in left_out or "MiB" in left_out


@pytest.mark.parametrize("context", [1024, 2048, 8192])
def test_longer_contexts_need_more_memory(context):
    model = registry.describe(MODEL)
    assert long_contexts.memory(model, context, 8) < long_contexts.memory(model, 2 * context, 8)
