"""The page of the correlation study, made from its record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks import _frame
from benchmarks._correlation_rows import FULL, LONG, SHORT_TRIALS, TASKS

Names = Mapping[str, str]
TOO_FEW = "Too few configurations of each model were measured for it.\n"


def page(record: _frame.Results, measures: Names, losses: Names, scopes: Names) -> str:
    """The page: what to trust, the correlations by scope and loss, and where the cheap number misleads."""
    results = record["results"]
    parts = [
        _frame.heading(record, "Does the cheap number tell?"),
        _method(results),
        "## What to trust\n",
        _trust(results, measures, losses, scopes),
    ]
    for scope, title in scopes.items():
        parts.append(f"## {title[0].upper()}{title[1:]}\n")
        found = [loss for loss in losses if results["scopes"][scope][loss]]
        parts += [_correlations(results, scope, loss, measures, losses) for loss in found] or [TOO_FEW]
    parts += ["## What finalists are chosen by\n", _finalists(results, losses)]
    return "\n".join([*parts, "## Where the number at 512 tokens misleads\n", *_misleading(results)])


def _method(results: _frame.Results) -> str:
    made = results["made"]
    places = ", ".join(
        sorted({f"{one['device']} on {one['date']} at revision {one['git_revision'][:7] or 'unknown'}" for one in made})
    )
    rows = ", ".join(f"{count} of {model}" for model, count in results["configurations"].items())
    able = ", ".join(f"{share:.0%} by {model}" for model, share in results["able"].items())
    retrieval, generation = TASKS["retrieval"], TASKS["generation"]
    return (
        f"Configurations of all methods and bits, the same for every model ({rows}), measured with "
        f"`python -m benchmarks._correlation_rows` ({places}). Retrieval: {retrieval[1]} times 4 texts of "
        f"{retrieval[0]:,} tokens; of the questions, 16 bit answers {able}. Generation: {generation[1]} times four "
        f"prompts, greedy and sampled, prompt and answer within {generation[0]} tokens. Both are read over a 16-bit "
        f"prefill, as the KLD at 512 tokens and at {LONG:,} is. One trial at 512 tokens scores 128 positions, "
        f"{SHORT_TRIALS} of them 1,024. "
        f"Rows that lack a part, because a run broke down: {results['failed']}; correlations leave them out.\n\n"
        "Rank correlations (1: the measure puts configurations in the order of their losses) are taken within a model; "
        "the table has their mean over the models, with 95% bootstrap intervals over configurations. The lead is the "
        "difference of Spearman's correlation from that of one trial at 512 tokens, on the same resamples. "
        "Each interval stands alone: of so many, a few leave zero out by chance.\n"
    )


def _trust(results: _frame.Results, measures: Names, losses: Names, scopes: Names) -> str:
    lines = []
    for scope, title in scopes.items():
        for loss, name in losses.items():
            found = {key: value for key, value in results["scopes"][scope][loss].items() if key != "bits"}
            if not found:
                continue
            best = max(found, key=lambda key: found[key]["spearman"]["mean"])
            ahead = [measures[key] for key, value in found.items() if value["lead"]["low"] > 0]
            behind = [measures[key] for key, value in found.items() if value["lead"]["high"] < 0]
            told = [f"ahead of one trial at 512 tokens: {', '.join(ahead) or 'nothing that chance does not explain'}"]
            told += [f"behind it: {', '.join(behind)}"] if behind else []
            lines.append(
                f"- {title}, {name}: highest {measures[best]} ({_value(found[best]['spearman'])}); {'; '.join(told)}."
            )
    return "\n".join(lines) + "\n"


def _finalists(results: _frame.Results, losses: Names) -> str:
    used = results["finalists_by"]
    rows = [
        (name, *(_value(results["full"][loss][name], "+") for loss in losses if results["full"][loss]))
        for name in next(filter(None, results["full"].values()), {})
        if name != used
    ]
    columns = ("number", *(title for loss, title in losses.items() if results["full"][loss]))
    better = [name for name in FULL if name != used and _tells_more(results, name)]
    said = f"so `{'` or `'.join(better)}` should" if better else f"none does, and `{used}` stays"
    taken = (
        f"Campaigns take the front in bits per value and `{used}` of the full measurement to their third rung "
        "(`FINALISTS_BY` in `agents/generation/nodes/long_context.py`). "
    )
    if not rows:
        return f"{taken}Among too few configurations no other number can show that it tells more.\n"
    return taken + (
        "The table says by how much Spearman's "
        f"correlation of its other numbers is larger than that of `{used}`, among the better half at 512 tokens. "
        "A number should take its place when it is larger for some loss, and smaller for none, by more than chance "
        f"explains: {said}.\n\n" + _frame.table(columns, rows)
    )


def _tells_more(results: _frame.Results, name: str) -> bool:
    leads = [found[name] for found in results["full"].values() if found]
    return any(lead["low"] > 0 for lead in leads) and not any(lead["high"] < 0 for lead in leads)


def _correlations(results: _frame.Results, scope: str, loss: str, measures: Names, losses: Names) -> str:
    found: dict[str, Any] = results["scopes"][scope][loss]
    models = list(found["kld_512"]["models"])
    rows = [
        (
            title,
            _value(found[name]["spearman"]),
            _value(found[name]["kendall"]),
            *(f"{found[name]['models'][model]:.2f}" for model in models),
            _value(found[name]["lead"], "+"),
        )
        for name, title in measures.items()
    ]
    columns = ("measure", "Spearman", "Kendall", *models, "lead")
    again = f"Its halves, over other texts or prompts, agree to {results['repeatable'][scope][loss]:.2f} here.\n"
    return f"**{losses[loss][0].upper()}{losses[loss][1:]}.** {again}\n{_frame.table(columns, rows)}"


def _value(found: Mapping[str, float], sign: str = "") -> str:
    return f"{found['mean']:{sign}.2f} [{found['low']:{sign}.2f}, {found['high']:{sign}.2f}]"


def _misleading(results: _frame.Results) -> Iterator[str]:
    yield (
        "Configurations of the better half at 512 tokens whose place among all of their model is worse by more than a "
        "third later on (places from 0, the best, to 1), the worst first. A place in retrieval is as sure as its "
        "halves agree.\n"
    )
    for later, title in (("kld_8k", "in KLD at 8K"), ("retrieval", "in retrieval")):
        rows = [
            (
                f"{model}: `{one['kv']}`",
                f"{one['rank']:.2f}",
                f"{one['later']:.2f}",
                f"{one['kld_512']:.3g}",
                f"{one['kld_8k']:.3g}",
                "" if one["retrieval"] is None else f"{one['retrieval']:.3f}",
            )
            for model, found in results["misleading"].items()
            for one in found[later]
        ]
        columns = (f"good at 512, bad {title}", "place at 512", "later", "KLD at 512", "KLD at 8K", "probability lost")
        yield _frame.table(columns, rows) if rows else f"No configuration is good at 512 tokens and bad {title}.\n"
