"""`import swarm`: what it exports, and that it costs nothing."""

import json
import subprocess
import sys

import pytest

import swarm

HEAVY = ("pydantic", "numpy", "mlx", "ray", "sqlalchemy", "optuna", "scipy", "rich", "transformers", "httpx2")


def loaded_after(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after running some code."""
    report = f"import json, sys\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def test_the_public_names_are_these():
    assert swarm.__all__ == [
        "Campaign", "KVSpec", "Measurement", "StoreReader", "SwarmError", "__version__",
        "decide", "launch", "load_recipe", "make_cache", "measure", "open_store", "recommend",
    ]  # fmt: skip
    assert all(getattr(swarm, name) is not None for name in swarm.__all__)
    assert set(swarm.__all__) <= set(dir(swarm))


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(AttributeError, match=r"no attribute 'lunch'.*KVSpec"):
        swarm.lunch  # noqa: B018


@pytest.mark.parametrize(
    "code",
    [
        "import swarm; dir(swarm)",
        "from swarm.orchestrator.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass",
    ],
)
def test_nothing_heavy_is_imported(code):
    assert not loaded_after(code) & set(HEAVY)
