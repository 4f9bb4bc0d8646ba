from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as settle
from hypothesis import strategies as st

from swarm.kernels.errors import SwarmError, UsageError
from swarm.orchestrator import devices, settings, workload


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in settings.Settings.model_fields:
        monkeypatch.delenv(f"SWARM_{name.upper()}", raising=False)
    return tmp_path


def write(folder: Path, text: str) -> None:
    (folder / "swarm.toml").write_text(text)


def test_a_flag_wins_over_the_environment_over_the_file_over_the_default(folder, monkeypatch):
    assert settings.load().budget == 330
    write(folder, "budget = 10\nseed = 3\n")
    assert settings.load().budget == 10
    monkeypatch.setenv("SWARM_BUDGET", "20")
    assert settings.load().budget == 20
    assert settings.load(budget=30).budget == 30
    assert settings.load(budget=30).seed == 3


@pytest.mark.parametrize("text", ['models = ["a", "b"]', 'models = "a, b"'])
def test_models_are_a_list_or_a_text_with_commas(folder, text):
    write(folder, text)
    assert settings.load().models == ("a", "b")


def test_models_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("SWARM_MODELS", "a,b")
    assert settings.load().models == ("a", "b")


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("45s", 45), ("10m", 600), ("1h30m", 5400), ("1.5h", 5400), ("2d", 172800)]
)
def test_durations(text, seconds):
    assert settings.load(time_limit=text).time_limit == seconds


@pytest.mark.parametrize("text", ["", "soon", "10 minutes", "-3", "0", "1h-5m", "nan", "inf"])
def test_a_time_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match="--time-limit"):
        settings.load(time_limit=text)


def test_an_unknown_key_is_an_error_with_the_nearest_known_one(folder):
    write(folder, "bugdet = 3")
    with pytest.raises(UsageError, match=r"'bugdet'.*Did you mean 'budget'"):
        settings.load()


def test_a_broken_file_is_an_error(folder):
    write(folder, "budget = = 3")
    with pytest.raises(UsageError, match=r"swarm\.toml"):
        settings.load()


@pytest.mark.parametrize(
    ("where", "message"), [("flag", "--budget=0"), ("variable", "SWARM_BUDGET=0"), ("file", "budget in swarm.toml=0")]
)
def test_an_error_says_where_the_value_came_from(folder, monkeypatch, where, message):
    if where == "file":
        write(folder, "budget = 0")
    if where == "variable":
        monkeypatch.setenv("SWARM_BUDGET", "0")
    with pytest.raises(UsageError) as caught:
        settings.load(**({"budget": 0} if where == "flag" else {}))
    assert message in str(caught.value)


def test_tables_of_commands_are_not_settings(folder):
    write(folder, "budget = 5\n[trials]\nbest = 3\n")
    assert settings.load().budget == 5


@settle(deadline=None)
@given(
    budget=st.integers(1, 10_000),
    seed=st.integers(0, 2**31),
    share=st.floats(0, 1),
    limit=st.none() | st.floats(0.1, 1e6),
)
def test_what_is_stored_is_restored(budget, seed, share, limit):
    chosen = settings.load(budget=budget, seed=seed, control_share=share, time_limit=limit, models="x,y")
    assert settings.restore(chosen.stored(), chosen.store) == chosen


def test_keys_of_providers_are_not_stored(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    assert "sk-secret" not in str(settings.load().stored())


@pytest.mark.parametrize(("long", "seconds"), [(None, 300), ("2K", 300), ("8K", 1200), ("8192", 1200)])
def test_trials_at_long_contexts_have_time_for_their_16_bit_run(long, seconds):
    assert settings.load(long=long).trial_timeout == seconds
    assert settings.load(long=long, trial_timeout="40s").trial_timeout == 40


@pytest.mark.parametrize("long", ["many", "64", "-2K"])
def test_a_long_context_that_is_none_is_named(long):
    with pytest.raises(UsageError, match="long"):
        settings.load(long=long)


def test_kernels_are_timed_at_contexts_of_their_own():
    assert settings.load().kernel_contexts == (8_192, 32_768, 131_072)
    chosen = settings.load(kernel_contexts="8K, 4096", shape="llama-3.1-70b")
    assert chosen.kernel_contexts == (8_192, 4_096)
    assert settings.restore(chosen.stored(), chosen.store) == chosen


@pytest.mark.parametrize("contexts", ["many", "", "64", "8K," * 9])
def test_contexts_of_kernels_that_are_none_are_named(contexts):
    with pytest.raises(UsageError, match="kernel-contexts"):
        settings.load(kernel_contexts=contexts)


@pytest.mark.parametrize(
    ("shape", "device", "message"), [("no such", "cuda", "no such"), ("llama-3.1-70b", "cpu", "GPU")]
)
def test_a_shape_that_no_kernel_can_be_timed_for_is_named(shape, device, message):
    with pytest.raises(SwarmError, match=message):
        workload.check(settings.load(shape=shape, device=device))


@pytest.mark.parametrize(
    ("text", "devices"),
    [("cpu", {"cpu": None}), ("cuda, cpu", {"cuda": None, "cpu": None}), ("cuda=9,cpu=1", {"cuda": 9, "cpu": 1})],
)
def test_devices_with_shares(text, devices):
    assert settings.load(device=text).devices == devices


@pytest.mark.parametrize("text", ["", "tpu", "cuda:0", "cpu,cpu", "cuda=0,cpu=1", "cuda=2,cpu", "cuda,", "cpu=x"])
def test_devices_that_are_none_are_refused(text):
    with pytest.raises(UsageError, match="--device"):
        settings.load(device=text)


def test_several_devices_need_a_cluster(folder):
    with pytest.raises(UsageError, match="--ray-address"):
        devices.parts(settings.load(device="cuda,cpu"))


@given(
    budget=st.integers(2, 10**9),
    shares=st.lists(st.integers(1, 1000), min_size=2, max_size=3),
    usd=st.floats(0, 1e6),
)
def test_a_budget_is_divided_by_shares(budget, shares, usd):
    trials = devices.divide(budget, shares)
    assert sum(trials) == budget
    assert all(abs(part - budget * share / sum(shares)) <= 1 for part, share in zip(trials, shares, strict=True))
    assert sum(devices.divide(usd, shares)) == pytest.approx(usd)
