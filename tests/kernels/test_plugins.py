"""Plug-ins that another distribution brings by entry points: added, used, refused where they clash, and removed."""

import os
import shutil
import subprocess
import sys

import pytest

METHOD = '''
from swarm.kernels.quantizers.affine import Affine

class Rounding(Affine):
    """Affine under another name."""
    name = "rounding"
'''
COMMAND = '''
PANEL = "Use"

def command() -> None:
    """Say hello."""
    print("hello from acme")
'''


@pytest.fixture
def site(tmp_path):
    """A folder for `sys.path`, and a way to install a distribution in it with entry points and modules."""

    def install(entries, **modules):
        info = tmp_path / "acme_kv-1.2.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-kv\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(entries)
        for name, text in modules.items():
            (tmp_path / f"{name}.py").write_text(text)

    install.folder = tmp_path
    return install


@pytest.fixture
def python(site):
    """Runs a statement in a process of its own, with the folder on its path; gives its output and its errors."""

    def run(code):
        path = os.pathsep.join([str(site.folder), *filter(None, sys.path)])
        env = {**os.environ, "PYTHONPATH": path}
        done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, env=env)
        return done.stdout.strip(), done.stderr.strip()

    return run


USE = """
from swarm.kernels.quantizers import base
from swarm.kernels.spec import KVSpec
print("rounding" in base.plugins.names(base.PACKAGE), "acme_rounding" in __import__("sys").modules)
kv = KVSpec.parse("KV rounding8/g32 sink4")
from swarm.kernels.contract import check_method
check_method("rounding")
print(kv.label, base.build(kv.key, 64).bits_per_value(), base.versions(kv))
"""
LIST = """
from swarm.kernels.quantizers import base
print("rounding" in base.methods(), len(base.methods()) >= 15)
"""


def test_a_method_of_another_distribution_is_used_like_a_built_in_one_and_gone_when_it_is(site, python):
    site("[kv_swarm.methods]\nrounding = acme_rounding:Rounding\n", acme_rounding=METHOD)
    out, errors = python(USE)
    expected = "K rounding8/g32 V rounding8/g32 sink4 9.0 {'codec': 1, 'rounding': 1}"
    assert out.splitlines() == ["True False", expected], errors
    site("[kv_swarm.methods]\nrounding = acme_rounding\n")
    assert python(LIST)[0] == "True True"
    shutil.rmtree(site.folder / "acme_kv-1.2.dist-info")
    assert "unknown method" in python(USE)[1].splitlines()[-1]


def test_a_plugin_that_cannot_be_imported_is_one_line_and_breaks_no_other(site, python):
    site("[kv_swarm.methods]\nrounding = acme_rounding\n", acme_rounding="import nothing_of_this_name")
    out, errors = python(LIST)
    assert out == "False True"
    (line,) = errors.splitlines()
    assert "'rounding' of acme-kv 1.2, acme_rounding, cannot be imported (ModuleNotFoundError" in line


@pytest.mark.parametrize(
    ("entry", "text", "said"),
    [
        ("rounding = acme_rounding:Rounding", "class Rounding:\n    pass\n", "is not one concrete Quantizer"),
        ("rounding = acme_rounding", "x = 1\n", "is not one concrete Quantizer"),
        ("other = acme_rounding", METHOD, "calls itself 'rounding'"),
    ],
)
def test_a_class_of_the_wrong_kind_is_refused(site, python, entry, text, said):
    site(f"[kv_swarm.methods]\n{entry}\n", acme_rounding=text)
    name = entry.partition(" ")[0]
    _, errors = python(f"from swarm.kernels.quantizers import base\nbase.method({name!r})")
    assert errors.splitlines()[-1].startswith("swarm.kernels.plugins.PluginError")
    assert said in errors.splitlines()[-1]


@pytest.mark.parametrize(
    ("group", "name", "listing"),
    [
        ("methods", "affine", "from swarm.kernels.quantizers import base\nbase.method('q8_0')"),
        ("protocols", "quality", "from swarm.experiments.protocols import base\nbase.protocol('depth')"),
        ("analysts", "contrast", "from swarm.agents.analysis import base\nbase.analysts()"),
        ("commands", "plan", "from swarm.orchestrator import cli\ncli.main(['--help'])"),
    ],
)
def test_a_name_that_is_taken_is_refused_by_its_distribution(site, python, group, name, listing):
    site(f"[kv_swarm.{group}]\n{name} = acme_rounding\n", acme_rounding="")
    _, errors = python(listing)
    assert f"kv_swarm.{group} {name!r} of acme-kv 1.2, acme_rounding, has a name that is taken." in errors


def test_a_command_of_another_distribution(site, python):
    site("[kv_swarm.commands]\ngreet = acme_greet\nbad = acme_bad\n", acme_greet=COMMAND, acme_bad="")
    run = "import sys\nfrom swarm.orchestrator.cli import main\nsys.argv = ['swarm', {!r}]\nmain()"
    assert python(run.format("greet"))[0] == "hello from acme"
    out, errors = python(run.format("--help"))
    assert "greet" in out
    assert "Say hello." in out
    assert errors.count("\n") == 0
    assert "'bad' of acme-kv 1.2, acme_bad, does not define command" in errors
