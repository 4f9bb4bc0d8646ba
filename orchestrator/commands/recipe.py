"""`swarm recipe`: a trial's configuration as a file to use or as flags of an engine, and flags as a configuration."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typing_extensions import TypedDict

from swarm.orchestrator.console import emit_json, note, say
from swarm.orchestrator.options import Json, StoreUrl

if TYPE_CHECKING:
    from swarm.experiments.deploy.engine_flags import Expressed
    from swarm.experiments.spec import TrialSpec
    from swarm.orchestrator.engine_recipes import MeasuredCost

PANEL = "Use"


def command(
    trial: Annotated[
        int | None, typer.Argument(help="Number of the trial; none with --flags.", show_envvar=False)
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to write it.  [default: print it]")] = None,
    engine: Annotated[
        str | None, typer.Option("--for", metavar="ENGINE", help="llama.cpp, ollama, lm-studio, mlx-lm or vllm.")
    ] = None,
    flags: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Flags of that engine, to be read as a configuration of ours.")
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="M", help="Model of a recipe that comes from flags.")] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Run the engine's configuration as a trial.")] = False,
    store: StoreUrl = None,
    json: Json = False,
) -> None:
    """Write the configuration of a trial as JSON, or as the flags of an engine that come nearest.

    `swarm generate` and `swarm serve` use a recipe, and so does any mlx-lm script:
    `generate(model, tokenizer, prompt, prompt_cache=swarm.load_recipe("best.json").apply(model))`.

    Examples: `swarm recipe 12 > best.json`, `swarm recipe 12 --for llama.cpp`,
    `swarm recipe --for llama.cpp --flags "--cache-type-k q8_0" --model gemma3-270m`
    """
    from swarm.kernels.errors import UsageError

    if (trial is None) == (flags is None):
        raise UsageError("what the recipe is made from is not clear.", "Give a trial, or --for ENGINE --flags TEXT.")
    if flags is not None:
        if engine is None or model is None:
            raise UsageError("flags mean something only with an engine and a model.", "Give --for and --model.")
        _write(_from_flags(engine, flags, model, store, measure=measure), out)
    elif engine is None:
        if measure or json:
            raise UsageError("--measure and --json go with --for or --flags.", "A recipe is JSON, and was measured.")
        _write(_of_trial(trial or 0, store), out)
    else:
        found = _for_engine(trial or 0, engine, store, measure=measure)
        if json:
            emit_json(found)
        else:
            _show(found)


class EngineRecipe(TypedDict):
    """A trial's configuration as an engine can have it; `cost` is None where none was measured."""

    trial: int
    engine: str
    command: str
    configuration: str
    not_expressed: list[str]
    notes: list[str]
    cost: dict[str, object] | None
    measure_with: str | None


def output() -> object:
    """What `--json` prints."""
    return EngineRecipe


def _write(text: str, out: Path | None) -> None:
    if out is None:
        sys.stdout.write(text)
    else:
        out.write_text(text, encoding="utf-8")


def _of_trial(trial: int, store: str | None) -> str:
    from swarm.orchestrator.recipes import of_trial
    from swarm.orchestrator.views.source import open_store
    from swarm.orchestrator.views.speed import times_of

    with open_store(store) as opened:
        record = opened.trials.get(trial)
        campaign, times = opened.campaigns.get(record.campaign_id), times_of(opened, record)
    corpus = campaign.settings.get("corpus")
    return of_trial(record, campaign.name, Path(corpus) if corpus else None, times).text()


def _from_flags(called: str, flags: str, model: str, store: str | None, *, measure: bool) -> str:
    """The recipe that flags of an engine mean; measured first, if that is wanted."""
    from swarm.experiments.deploy import engine_flags
    from swarm.experiments.deploy.recipe import Recipe, plan
    from swarm.experiments.engines.base import named
    from swarm.experiments.environment import device
    from swarm.experiments.spec import TrialSpec
    from swarm.memory.store import Store
    from swarm.orchestrator.engine_recipes import measure as run
    from swarm.orchestrator.recipes import of_trial
    from swarm.orchestrator.settings import store_url

    found = engine_flags.read(named(called), flags)
    note(f"{found.engine}: {found.kv.label}")
    for line in found.notes:
        note(f"  but {line}.")
    if not measure:
        return Recipe(model=model, kv=found.kv, plan=plan(found.kv)).text()
    spec = TrialSpec(model=model, kv=found.kv, rung=1, device=device())
    with Store.open(store_url(store), create=True) as opened:
        record = run(opened, spec, f"flags of {found.engine}: {flags}")
        return of_trial(record, opened.campaigns.get(record.campaign_id).name).text()


def _for_engine(trial: int, called: str, store: str | None, *, measure: bool) -> EngineRecipe:
    from swarm.experiments.deploy import engine_flags
    from swarm.experiments.engines.base import named
    from swarm.memory.store import Store
    from swarm.orchestrator.engine_recipes import cost
    from swarm.orchestrator.engine_recipes import measure as run
    from swarm.orchestrator.recipes import of_trial
    from swarm.orchestrator.settings import store_url
    from swarm.orchestrator.views.source import open_store

    engine = named(called)
    with open_store(store) as opened:
        record = opened.trials.get(trial)
        if record.spec.engine is not None and not measure:
            return _row(trial, engine_flags.of_engine(engine, record.spec.engine), None, None)
        settings = opened.campaigns.get(record.campaign_id).settings
        corpus = Path(settings["corpus"]) if settings.get("corpus") else None
        of_trial(record, "", corpus)  # refuses what is no configuration
        found = engine_flags.express(engine, record.spec.kv, _layers(record.spec))
        known = cost(opened, record, found.kv) if found.kv != record.spec.kv else None
    again = f"swarm recipe {trial} --for {found.engine} --measure"
    if measure and known is None and found.kv != record.spec.kv:
        with Store.open(store_url(store)) as opened:
            spec = record.spec.model_copy(update={"kv": found.kv})
            run(opened, spec, f"what {found.engine} has in the place of trial {trial}", corpus)
            known = cost(opened, record, found.kv)
    return _row(trial, found, known, again if known is None and found.kv != record.spec.kv else None)


def _layers(spec: TrialSpec) -> int | None:
    """Layers of a trial's model where it matters and the model is at hand."""
    from swarm.experiments.models import registry
    from swarm.kernels.errors import SwarmError

    if spec.layers is None:
        return None
    try:
        return registry.describe(spec.model).n_layers
    except SwarmError:
        return None


def _row(trial: int, found: Expressed, known: MeasuredCost | None, again: str | None) -> EngineRecipe:
    return {
        "trial": trial,
        "engine": found.engine,
        "command": found.command,
        "configuration": found.kv.label,
        "not_expressed": list(found.lost),
        "notes": list(found.notes),
        "cost": None if known is None else known.model_dump(mode="json"),
        "measure_with": again,
    }


def _show(found: EngineRecipe) -> None:
    say(found["command"], style="bold")
    say(f"  stores {found['configuration']}")
    for title, lines in (("Not expressed", found["not_expressed"]), ("Differs all the same", found["notes"])):
        if lines:
            say(f"{title}:")
        for line in lines:
            say(f"  {line}")
    cost = found["cost"]
    if cost is not None:
        ratio = f": {cost['ratio']:.3g} times ({cost['low']:.3g} to {cost['high']:.3g})" if cost["ratio"] else ""
        trials = ", ".join(map(str, cost["trials"]))  # type: ignore[call-overload]
        say(
            f"Measured cost: KLD {cost['engine_kld']:.4g} in the place of {cost['wanted_kld']:.4g}{ratio}, by trial "
            f"{trials} on {cost['windows']} common windows of text."
        )
    elif found["measure_with"]:
        say(f"What the difference costs was not measured here: `{found['measure_with']}`.")
    elif not found["not_expressed"]:
        say("Nothing is lost.")
