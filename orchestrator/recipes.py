"""Recipes between the store and the commands: made from a trial, chosen by options, checked for a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from swarm.kernels.errors import SwarmError, UsageError
from swarm.orchestrator.console import note

if TYPE_CHECKING:
    from swarm.experiments.deploy.recipe import Recipe
    from swarm.experiments.measurement.stored_factors import StoredFactors
    from swarm.experiments.models.base import LoadedModel
    from swarm.experiments.spec import Metric
    from swarm.memory.records import TrialRecord


class FactorsError(SwarmError):
    """Learned factors that are not the measured ones."""


def of_trial(
    record: TrialRecord, campaign: str, corpus: Path | None = None, times: Mapping[str, Metric] | None = None
) -> Recipe:
    """The recipe of a trial, with the learned factors that it was measured with.

    Args:
        record: the trial.
        campaign: name of its campaign.
        corpus: the campaign's text; None is the default one.
        times: what kernels took for its configuration, where that is known.

    Raises:
        UsageError: the trial measured no divergence of a whole model, or changed the model itself.
        FactorsError: other factors than the measured ones come out of fitting here.
    """
    from swarm.experiments import edits
    from swarm.experiments.deploy.recipe import Evidence, Recipe, plan
    from swarm.experiments.measurement.stored_factors import digest

    spec, environment = record.spec, record.environment
    if record.state != "complete":
        raise UsageError(f"trial {record.id} is {record.state}.", "Name a complete one: `swarm trials --best 5`.")
    if "kld" not in record.metrics:
        raise UsageError(
            f"trial {record.id} measured {spec.protocol}, not how far a model's answers drift.",
            "Name a quality trial: `swarm trials --best 5`.",
        )
    if spec.engine is not None:
        raise UsageError(
            f"trial {record.id} measured an engine ({spec.engine.label}), not a configuration of ours.",
            f"`swarm recipe {record.id} --for {spec.engine.engine}` prints its flags; --flags reads them as ours.",
        )
    if spec.logit_gain != 1:
        raise UsageError(
            f"trial {record.id} multiplied the attention logits by {spec.logit_gain:g}.",
            "That is an experiment, not a configuration; name another: `swarm trials --best 5`.",
        )
    if spec.edits:
        raise UsageError(
            f"trial {record.id} edited the weights ({edits.label(spec.edits)}).",
            "That is an experiment, not a configuration; name another: `swarm trials --best 5`.",
        )
    factors = _learned(record, corpus)
    evidence = Evidence(
        trial=record.id,
        campaign=campaign,
        fingerprint=record.fingerprint,
        protocol=spec.protocol,
        rung=spec.rung,
        context=spec.context,
        notes=record.notes,
        metrics=record.metrics,
        device=environment.device if environment else "",
        versions=environment.versions if environment else {},
        code_version=environment.code_version if environment else "",
        times=dict(times) if times else None,
    )
    return Recipe(
        model=spec.model,
        model_digest=spec.model_digest,
        kv=spec.kv,
        seed=spec.seed,
        plan=plan(spec.kv),
        evidence=evidence,
        factors=factors,
        factors_digest=digest(factors),
    )


def _learned(record: TrialRecord, corpus: Path | None) -> tuple[StoredFactors, ...]:
    """The learned factors of a trial, from this machine's cache or fitted again on the same calibration text."""
    from swarm.experiments.measurement.learned_scaling import learns

    if not learns(record.spec.kv):
        return ()
    from swarm.experiments.measurement.learned_scaling import learned
    from swarm.experiments.measurement.runner import Runner, trial_errors
    from swarm.experiments.measurement.stored_factors import speaks_of, stored

    with trial_errors():
        factors = stored(learned(record.spec, Runner(corpus=corpus).subject(record.spec.model)))
    if factors and not speaks_of(record.notes, factors):
        raise FactorsError(
            f"the learned factors that fitting gives here are not those that trial {record.id} was measured with.",
            f"Use the release and the machine that ran it; `swarm reproduce {record.id}` says what differs.",
        )
    return factors


def choose(model: str | None, path: Path | None, method: str | None) -> tuple[str, Recipe]:
    """The model and the recipe that the options of a command mean.

    Args:
        model: a model's name; by default the recipe's.
        path: a recipe's file.
        method: a configuration as `KVSpec.parse` reads it, in place of a recipe.

    Raises:
        UsageError: both or neither are given, there is no model, or no such configuration.
        RecipeError: the file is no recipe.
    """
    from swarm.experiments.deploy.recipe import Recipe, load_recipe, plan
    from swarm.kernels.spec import KVSpec

    if (path is None) == (method is None):
        raise UsageError("what the cache stores is not clear.", "Give --recipe or --kv, one of them.")
    if path is not None:
        recipe = load_recipe(path)
        return model or recipe.model, recipe
    if model is None:
        raise UsageError("there is no model.", "Give --model.")
    kv = KVSpec.parse(method or "")
    return model, Recipe(model=model, kv=kv, plan=plan(kv))


def check(recipe: Recipe, loaded: LoadedModel) -> None:
    """Say so when a recipe was measured on something else than the model at hand."""
    if recipe.evidence is None:
        return
    if recipe.model != loaded.info.name:
        note(f"This recipe was measured on {recipe.model}; nothing is known about {loaded.info.name}.")
    elif recipe.model_digest and loaded.info.digest and recipe.model_digest != loaded.info.digest:
        note(f"This recipe was measured on other weights of {recipe.model}.")
