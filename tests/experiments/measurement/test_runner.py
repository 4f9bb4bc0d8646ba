import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_models import write_tiny_model

from swarm.experiments.measurement.runner import Runner, measure, trial_errors
from swarm.experiments.protocols.simulated import CRASH_STATUS, Fault, instruct
from swarm.experiments.spec import Measurement, TrialSpec
from swarm.kernels.errors import (
    DiskFullError,
    NonFiniteError,
    OutOfMemoryError,
    SpecError,
    TrialError,
    UnknownNameError,
    UsageError,
)
from swarm.kernels.spec import KVSpec, QuantSpec

FOUR = KVSpec(key=QuantSpec(method="affine", bits=4, group_size=32), value=QuantSpec(method="q4_0"))

IMPORTS = """
from swarm.experiments.measurement.runner import Runner
from swarm.experiments.protocols.simulated import *
"""


def spec(name, **fields):
    return TrialSpec(**{"model": name, "context": 64, "kv": FOUR, **fields})


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.NAN, NonFiniteError),
        (Fault.OOM, OutOfMemoryError),
        (Fault.DISK_FULL, DiskFullError),
        (Fault.ERROR, TrialError),
        (Fault.BUG, TrialError),
    ],
)
@pytest.mark.parametrize("number", [0, 7])
def test_faults_become_trial_errors(runner, fault, error, number):
    with pytest.raises(error) as caught:
        runner.run(instruct(number, fault))
    assert type(caught.value) is error
    assert caught.value.remedy


def test_a_bug_keeps_its_cause(runner):
    with pytest.raises(TrialError, match="ZeroDivisionError") as caught:
        runner.run(instruct(0, Fault.BUG))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        (RuntimeError("[metal::malloc] Unable to allocate 9 bytes"), OutOfMemoryError),
        (RuntimeError("CUDA error: out of memory"), OutOfMemoryError),
        (FloatingPointError("overflow"), NonFiniteError),
        (PermissionError(13, "Permission denied"), TrialError),
        (UnknownNameError("model", "x"), UnknownNameError),
    ],
)
def test_what_may_be_raised_has_an_outcome(raised, error):
    with pytest.raises(error), trial_errors():
        raise raised


def test_simulated_takes_its_time_and_is_a_function_of_its_specification(runner):
    first, again = (runner.run(instruct(3, milliseconds=30)) for _ in range(2))
    assert first.metrics == again.metrics
    assert first.metrics != runner.run(instruct(4)).metrics
    assert first.seconds["total"] >= 0.03
    assert "Nothing was measured" in first.notes


def python(code, **environment):
    """Run code in a fresh interpreter with one thread."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_name_of_the_simulated_protocol_in_older_stores_is_read(runner):
    older = instruct(3, protocol="noop")
    assert runner.run(older).metrics == runner.run(instruct(3)).metrics


def test_a_crash_ends_the_process():
    done = python(IMPORTS + "Runner().run(instruct(0, Fault.CRASH))")
    assert done.returncode == CRASH_STATUS, done.stderr


def test_a_hang_hangs():
    process = subprocess.Popen(
        [sys.executable, "-c", IMPORTS + "r = Runner(); print('ready', flush=True); r.run(instruct(0, Fault.HANG))"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.0)
    finally:
        process.kill()
        process.wait()


MEASURE = """
import sys
from pathlib import Path
from swarm.experiments.measurement.runner import Runner
from swarm.experiments.spec import TrialSpec
runner = Runner(cache_dir=Path(sys.argv[1]))
for text in sys.argv[2:]:
    print(runner.run(TrialSpec.model_validate_json(text)).model_dump_json())
"""


def measure_elsewhere(cache, specs):
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(cache), *(spec.model_dump_json() for spec in specs)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [numbers(Measurement.model_validate_json(line)) for line in done.stdout.splitlines()]


def numbers(measured):
    """All that was measured, to the bit."""
    return [(m.name, m.value, m.stderr) for m in measured.metrics], measured.arrays


def test_every_process_and_order_measures_the_same_bits(tmp_path, tiny_models):
    specs = [
        spec(tiny_models[family], protocol=protocol, rung=rung, seed=seed)
        for family, seed, protocol, rung in (
            ("llama", 0, "quality", 1),
            ("gemma3_text", 5, "quality", 0),
            ("gemma3_text", 0, "quality", 1),
            ("llama", 5, "attention", 0),
        )
    ]
    shared = measure_elsewhere(tmp_path / "a", specs)
    assert measure_elsewhere(tmp_path / "a", specs[::-1])[::-1] == shared
    here = Runner(cache_dir=tmp_path / "b")
    assert [numbers(here.run(one)) for one in specs[1:3]] == shared[1:3]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": (0, 4)}, "layer 4 does not exist"),
        ({"context": 513}, "context=513"),
        ({"context": 512, "replicate": 0, "rung": 2}, "rung=2"),
        ({"protocol": "attention", "rung": 1}, "rung=1"),
        ({"kv": KVSpec(key=QuantSpec(method="affine", group_size=64))}, "does not divide the head size 32"),
        ({"kv": FOUR.model_copy(update={"key_bias": "subtract"})}, "no key bias"),
        ({"model_digest": "f" * 64}, "other weights"),
        ({"corpus_digest": "f" * 64}, "other text"),
        ({"protocol": "nosuch"}, "unknown protocol 'nosuch'"),
        ({"model": "no-such-model"}, "unknown model 'no-such-model'"),
        ({"device": "cuda"}, "device"),
    ],
)
def test_what_cannot_be_run_is_said_in_one_line(runner, tiny_models, fields, message):
    with pytest.raises(UsageError, match=message) as caught:
        runner.run(spec(**{"name": tiny_models["llama"], **fields}) if "model" not in fields else TrialSpec(**fields))
    assert "\n" not in str(caught.value)


def test_a_text_that_is_too_short_is_said(tmp_path, tiny_models):
    corpus = tmp_path / "short.txt"
    corpus.write_text("A few words are not enough.\n" * 9)
    with pytest.raises(UsageError, match="too short"):
        Runner(cache_dir=tmp_path, corpus=corpus).run(spec(tiny_models["llama"]))


def test_captures_are_made_once_and_told_apart(tmp_path, tiny_models):
    runner = Runner(cache_dir=tmp_path)
    name = tiny_models["llama"]

    def captures():
        return {path.name for path in (tmp_path / "captures").iterdir() if path.is_dir()}

    runner.prepare(TrialSpec(model=name, context=64))
    first = captures()
    runner.run(spec(name))
    runner.run(spec(name, protocol="depth"))
    runner.run(spec(name, protocol="attention"))
    Runner(cache_dir=tmp_path).run(spec(name))
    assert captures() == first
    assert sorted(name.partition("-")[0] for name in first) == ["decode", "tokens"]
    for number, change in enumerate(({"context": 65}, {"replicate": 1}, {"logit_gain": 2.0}, {"rung": 1}), 3):
        runner.run(spec(name, **change))
        assert len(captures()) == number


def test_a_damaged_capture_is_made_again(tmp_path, tiny_models):
    name = tiny_models["llama"]
    before = Runner(cache_dir=tmp_path).run(spec(name))
    (damaged,) = (tmp_path / "captures").glob("decode-*/logits.npy")
    damaged.write_bytes(damaged.read_bytes()[:-100])
    assert Runner(cache_dir=tmp_path).run(spec(name)).metrics == before.metrics


def test_a_full_disk_is_an_outcome(tmp_path, tiny_models, monkeypatch):
    from swarm.experiments.artifacts import CaptureWriter

    def full(self, *_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CaptureWriter, "stream", full)
    with pytest.raises(DiskFullError, match="space"):
        Runner(cache_dir=tmp_path).run(spec(tiny_models["llama"]))


def test_models_leave_when_they_grow_too_many(tmp_path, tiny_models):
    runner = Runner(cache_dir=tmp_path, memory=1)
    for family in ("llama", "qwen2", "llama"):
        runner.run(spec(tiny_models[family]))
        assert runner.models.names == (tiny_models[family],)
    roomy = Runner(cache_dir=tmp_path)
    for family in ("llama", "qwen2"):
        roomy.run(spec(tiny_models[family]))
    roomy.run(spec(tiny_models["llama"]))
    assert roomy.models.names == (tiny_models["qwen2"], tiny_models["llama"])


def test_other_weights_under_the_same_name_are_other_results(tmp_path):
    runs = []
    for seed in (0, 1):
        folder = write_tiny_model(tmp_path / "model", "llama", seed)
        runs.append(Runner(cache_dir=tmp_path / "cache").run(spec(str(folder)))["kld"])
    assert runs[0] != runs[1]


def test_one_trial_here_and_now(runner, tiny_models, monkeypatch, tmp_path):
    monkeypatch.setenv("SWARM_CACHE", str(tmp_path))
    model = tiny_models["llama"]
    found = measure(model, "K affine4/g32 V q4_0", context=64)
    assert found.metrics == runner.run(spec(model)).metrics
    assert measure(Path(model), FOUR, "attention", context=64)["attention_kl"] > 0
    with pytest.raises(SpecError, match="affin4"):
        measure(model, "affin4")
    with pytest.raises(UnknownNameError, match="nosuch"):
        measure("nosuch", FOUR)


def test_a_measurement_says_where_it_was_made(runner, tiny_models):
    environment = runner.run(spec(tiny_models["llama"])).environment
    assert environment.device.startswith("cpu: ")
    assert {"mlx", "mlx-lm", "numpy"} <= environment.versions.keys()
    assert len(environment.code_version) == 64
    assert environment.blas
    root = Path(__file__).parents[3]
    if (root / ".git").exists():
        known = ["git", "merge-base", "--is-ancestor", environment.git_revision, "HEAD"]
        subprocess.run(known, cwd=root, check=True)


def test_nothing_is_not_finite(runner, tiny_models):
    measured = runner.run(spec(tiny_models["gemma3_text"], protocol="attention"))
    assert all(np.isfinite(values).all() for values in measured.arrays.values())


@pytest.mark.parametrize("field", [{"replicate": -1}, {"context": 0}, {"rung": -2}, {"logit_gain": float("nan")}])
def test_values_out_of_range_are_named(tiny_models, field):
    with pytest.raises(SpecError, match=next(iter(field))):
        measure(tiny_models["llama"], "KV q8_0", **field)
