"""Each template of docs/templates is installed as a distribution of somebody else, used, and removed again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from swarm.kernels import plugins

TEMPLATES = Path(__file__).parents[1] / "docs" / "templates"
# Per template: group, name, class (none for modules), and code that uses it; every line of it has to hold.
USES = {
    "method": (
        "kv_swarm.methods", "sign_mean", "SignMean",
        """
        import numpy as np
        from swarm import KVSpec
        from swarm.kernels.codec import Codec
        kv = KVSpec.parse("K sign_mean+hadamard V q8_0")
        assert KVSpec.parse(kv.label) == kv
        codec = Codec(kv.key, "key", 64)
        x = np.random.default_rng(0).normal(size=(1, 2, 8, 64)).astype(np.float32)
        packed = codec.encode(x)
        assert sum(part.nbytes for part in packed.values()) * 8 / x.size == codec.bits_per_value
        error = codec.output(codec.decode(packed)) - x
        assert (error**2).mean() < 0.5 * (x**2).mean()
        """,
    ),
    "protocol": (
        "kv_swarm.protocols", "unharmed", "Unharmed",
        """
        import os, swarm
        measured = swarm.measure(os.environ["TINY_MODEL"], "K q8_0 V q8_0", protocol="unharmed", context=64)
        assert 0 <= measured["unharmed"] <= 1 and "kld" in {m.name for m in measured.metrics}
        """,
    ),
    "analyst": (
        "kv_swarm.analysts", "rotated_keys", "RotatedKeys",
        """
        from swarm.agents.analysis.base import analysts
        from swarm.agents.history import History
        assert analysts()["rotated_keys"]().analyse(History(()), {}) == []
        """,
    ),
    "sampler": (
        "kv_swarm.samplers", "uniform", "Uniform",
        """
        from swarm.agents.samplers.base import samplers
        from swarm.agents.analysis.engine import AnalysisEngine
        from swarm.agents.generation.strategy import GenerationStrategy
        from swarm.agents.history import History
        from swarm.agents.settings import AgentSettings
        from swarm.experiments.models import registry
        from swarm.experiments.space.search_space import Space
        info = registry.describe("smollm2-135m")
        context = GenerationStrategy(Space([info]), AnalysisEngine([info], AgentSettings()), 0).context(0, History(()))
        proposal = samplers()["uniform"].propose(context)
        assert (proposal.proposer, proposal.spec.model) == ("uniform", info.name)
        assert context.is_new(proposal.spec) and context.expresses(proposal.spec)
        """,
    ),
    "node": (
        "kv_swarm.nodes", "repeated_default", "RepeatedDefault",
        """
        from swarm.agents.analysis.engine import AnalysisEngine
        from swarm.agents.generation.nodes.base import nodes
        from swarm.agents.generation.strategy import GenerationStrategy
        from swarm.agents.history import History
        from swarm.agents.settings import AgentSettings
        from swarm.experiments.models import registry
        from swarm.experiments.space.search_space import Space
        from swarm.memory.records import Budget
        from swarm.memory.store import Store
        info = registry.describe("smollm2-135m")
        strategy = GenerationStrategy(Space([info]), AnalysisEngine([info], AgentSettings()), 0)
        with Store.open("some.db", create=True) as store:
            campaign = store.campaigns.create(None, {}, Budget(trials=2), 0)
            first = store.propose(campaign.id, 0, strategy.propose(0, History(())))
        history = History((first.model_copy(update={"state": "complete"}),))
        proposal = nodes()["repeated_default"].propose(strategy.context(1, history))
        assert proposal.spec == first.spec.model_copy(update={"replicate": 1})
        """,
    ),
    "model": (
        "kv_swarm.models", "my-model", "MyModel",
        """
        from swarm.experiments.models import registry
        assert not registry.describe("my-model").available
        """,
    ),
    "engine": (
        "kv_swarm.engines", "my_engine", "MyEngine",
        """
        from swarm.experiments.engines.base import Host, Reply, recognise
        class Site(Host):
            def get(self, path):
                known = path.startswith("/status")
                return Reply(200, '{"engine": "my-engine", "bytes": 7}') if known else Reply(404)
            def post(self, path, body):
                return Reply(404)
        engine = recognise(Site())
        assert (engine.name, engine.told(Site(), "m").memory) == ("my_engine", {"total": 7})
        """,
    ),
    "command": (
        "kv_swarm.commands", "count", None,
        """
        from swarm.memory.store import Store
        Store.open("some.db", create=True).close()
        from swarm.orchestrator import cli
        try:
            cli.run(["count", "--store", "some.db", "--json"])
        except SystemExit as ending:
            assert ending.code in (0, None), ending.code
        """,
    ),
}  # fmt: skip
LISTED = """
import sys
from swarm.kernels import plugins
assert sys.argv[2] in plugins.names(sys.argv[1])
"""
PACKAGES = {
    "kv_swarm.methods": "swarm.kernels.quantizers",
    "kv_swarm.protocols": "swarm.experiments.protocols",
    "kv_swarm.analysts": "swarm.agents.analysis.analysts",
    "kv_swarm.samplers": "swarm.agents.samplers",
    "kv_swarm.nodes": "swarm.agents.generation.nodes",
    "kv_swarm.models": "swarm.experiments.models.bundled",
    "kv_swarm.engines": "swarm.experiments.engines",
    "kv_swarm.commands": "swarm.orchestrator.commands",
}


def install(site: Path, template: str) -> None:
    """Write a distribution with one module and one entry point."""
    group, name, plugin, _ = USES[template]
    info = site / f"brought_{template}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: brought-{template}\nVersion: 1.0\n")
    module = f"brought_{template}"
    value = f"{module}:{plugin}" if plugin else module
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {value}\n")
    (site / f"{module}.py").write_text((TEMPLATES / f"{template}.py").read_text())


def python(code: str, *arguments: str, site: Path, cwd: Path, **variables: str) -> None:
    """Run code in a process of its own, with the distribution installed."""
    places = [str(site), *(path for path in sys.path if path)]
    environment = {**os.environ, **variables, "PYTHONPATH": os.pathsep.join(places)}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, check=False)
    assert done.returncode == 0, done.stderr


def dedented(code: str) -> str:
    return "\n".join(line.removeprefix(" " * 8) for line in code.splitlines())


def test_every_template_is_tried():
    assert {path.stem for path in TEMPLATES.glob("*.py")} == set(USES)


@pytest.mark.parametrize("template", USES)
def test_a_template_is_added_used_and_removed(template, tmp_path, tiny_models):
    group, name, _, use = USES[template]
    site = tmp_path / "site"
    install(site, template)
    variables = {"TINY_MODEL": tiny_models["llama"], "XDG_CACHE_HOME": str(tmp_path / "cache")}
    python(LISTED + dedented(use), PACKAGES[group], name, site=site, cwd=tmp_path, **variables)
    assert name not in plugins.names(PACKAGES[group])
