"""The table that search strategies are replayed on, and the replay itself."""

import importlib
import itertools
import json
import math

import numpy as np
import pytest

from swarm.experiments.models import registry

grid = importlib.import_module("benchmarks._grid")
tables = importlib.import_module("benchmarks._table")
replays = importlib.import_module("benchmarks._replay")
search = importlib.import_module("benchmarks.search")


@pytest.fixture(scope="module")
def table():
    if not tables.FILE.exists():
        pytest.skip(f"{tables.FILE} was not made yet")
    return tables.load()


@pytest.fixture(scope="module")
def ground(table):
    return replays.Ground([registry.describe(next(iter(table)))], table)


def test_the_table_holds_every_configuration_of_its_models_once(table):
    assert tables.FILE.stat().st_size <= 5_000_000
    for model, rows in table.items():
        wanted = list(grid.configurations(registry.describe(model)))
        assert len(wanted) == len(set(wanted)) >= 2_000
        assert set(rows) == set(wanted)
        for row in rows.values():
            assert row.outcome != "ok" or math.isclose(np.mean(row.windows), row.metrics["kld"], rel_tol=1e-4)


@pytest.mark.parametrize("model", grid.MODELS)
def test_the_cut_down_space_offers_what_is_measured_and_nothing_else(model):
    info = registry.describe(model)
    space = grid.Grid([info], tables.CONTEXT)
    wanted = set(grid.configurations(info))
    rng = np.random.default_rng(0)
    for spec in [*space.defaults(info), *(space.random(rng, info) for _ in range(200))]:
        assert spec.kv in wanted
    template = space.defaults(info)[0]
    for kv in itertools.islice(wanted, 100):
        space.params(template.model_copy(update={"kv": kv}))


def test_an_unfinished_table_is_packed_and_a_torn_line_dropped(tmp_path):
    info = registry.describe(grid.MODELS[0])
    lines = []
    for kv in itertools.islice(grid.configurations(info), 5):
        measured = dict.fromkeys(tables.METRICS, 0.5) | {tables.SERIES: [0.4, 0.6]}
        spec = {"kv": kv.model_dump(mode="json")}
        lines.append(json.dumps(spec | measured | {"outcome": "ok", "cpu": 0.1, "code_version": "x"}) + "\n")
    path = tmp_path / f"{info.name}.jsonl"
    path.write_text("".join(lines) + lines[0][:30])
    assert tables.pack(tmp_path, tmp_path / "table.parquet") == {info.name: 5}
    assert path.read_text() == "".join(lines)
    found = tables.load(tmp_path / "table.parquet")[info.name]
    assert list(found) == list(itertools.islice(grid.configurations(info), 5))
    before = tables.load(tmp_path / "table.parquet")
    (tmp_path / "more").mkdir()
    other = grid.MODELS[-1]
    (tmp_path / "more" / f"{other}.jsonl").write_text("".join(lines[:2]))
    assert tables.pack(tmp_path / "more", tmp_path / "table.parquet") == {info.name: 5, other: 2}
    assert tables.load(tmp_path / "table.parquet")[info.name] == before[info.name]
    assert all(row == tables.Row("ok", dict.fromkeys(tables.METRICS, 0.5), (0.4, 0.6)) for row in found.values())


@pytest.mark.parametrize("name", replays.STRATEGIES)
def test_a_replay_is_a_pure_function_of_its_seed_and_repeats_nothing(name, ground):
    runs = [replays.STRATEGIES[name](ground, seed).run(14) for seed in (0, 0, 1)]
    specs = [[record.spec for record in run] for run in runs]
    assert specs[0] == specs[1] != specs[2]
    assert len({spec.kv for spec in specs[0]}) == 14
    if name != "random":
        defaults = ground.grid.defaults(ground.infos[0])
        assert specs[0][: len(defaults)] == defaults


def test_regret_never_rises_and_is_nothing_once_all_is_known(ground):
    model = ground.infos[0].name
    curve = search.curve_of(replays.Random(ground, 0).run(60), 60, model)["regret"]
    assert all(later <= earlier for earlier, later in itertools.pairwise(curve))
    assert curve[-1] > 0
    template = ground.grid.defaults(ground.infos[0])[0]
    specs = [template.model_copy(update={"kv": kv}) for kv in ground.table[model]]
    records = [ground.record(number, spec, "") for number, spec in enumerate(specs)]
    assert search.curve_of(records, len(records), model)["regret"][-1] == pytest.approx(0, abs=1e-12)


def test_the_paired_test_sees_a_difference_and_no_difference():
    rng = np.random.default_rng(0)
    theirs = rng.normal(1.0, 0.1, 30)
    assert search.paired_test(theirs - 0.1, theirs)["p"] < 1e-6
    assert search.paired_test(theirs, theirs)["p"] == 1.0
    assert search.paired_test(theirs + 0.1, theirs)["p"] > 0.99
