"""`swarm generate`: text from a model with a packed cache, next to 16 bit."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typing_extensions import TypedDict

from swarm.orchestrator.console import Column, clean, emit_json, listing, note, say
from swarm.orchestrator.options import Json, KVMethod, RecipeFile

if TYPE_CHECKING:
    from swarm.experiments.deploy.generation import Generated

PANEL = "Use"


def command(
    prompt: Annotated[
        str | None, typer.Argument(help="What to answer or continue.  [default: standard input]", show_envvar=False)
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="M", help="Bundled name, Hugging Face id or folder.  [default: the recipe's]")
    ] = None,
    recipe: RecipeFile = None,
    kv: KVMethod = None,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate at most.")] = 128,
    temperature: Annotated[float, typer.Option(min=0, help="0 always takes the likeliest token.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Decides the sampling.")] = 0,
    chat: Annotated[
        bool | None, typer.Option(help="Use the model's chat template.  [default: when it has one]")
    ] = None,
    compare: Annotated[bool, typer.Option(help="Generate once more with a 16-bit cache and compare.")] = True,
    json: Json = False,
) -> None:
    """Stream text with a recipe's cache; then show memory and speed next to a 16-bit cache.

    Examples: `swarm generate --recipe best.json "Name three planets."`,
    `swarm generate --model gemma3-270m --kv q8_0,q4_0 < notes.txt`
    """
    from swarm.experiments.deploy import generation
    from swarm.experiments.models import registry
    from swarm.kernels.errors import UsageError
    from swarm.orchestrator.recipes import check, choose

    name, chosen = choose(model, recipe, kv)
    text = prompt if prompt is not None else sys.stdin.read()
    if not text.strip():
        raise UsageError("the prompt is empty.", "Give some text.")
    loaded = registry.load(name)
    check(chosen, loaded)
    ids = generation.encode(loaded, text, chat=chat)

    def run(make: Callable[[Any], Sequence[Any]], *, aloud: bool) -> Generated:
        generation.warm_up(loaded, make(loaded.model), ids)
        shown = _aloud if aloud and not json else None
        caches = make(loaded.model)
        return generation.generate(loaded, caches, ids, tokens, temperature=temperature, seed=seed, say=shown)

    runs = {chosen.kv.label: run(chosen.apply, aloud=True)}
    if compare:
        if not json:
            sys.stdout.write("\n")
            note("The same with a 16-bit cache:")
        runs["16 bit"] = run(generation.sixteen_bit, aloud=False)
    _report(name, runs, json)


def _aloud(text: str) -> None:
    sys.stdout.write(clean(text))
    sys.stdout.flush()


def _report(model: str, runs: dict[str, Generated], json: bool) -> None:
    rows: list[CacheRow] = [_row(label, run) for label, run in runs.items()]
    first, *others = runs.values()
    agreement = next((_agreement(first, other) for other in others), None)
    faster = next((_speedup(first, other) for other in others), None)
    if json:
        answer = {"model": model, "text": first.text, "runs": rows, "same_tokens": agreement}
        emit_json({**answer, "sixteen_bit_speedup": faster})
        return
    from swarm.experiments.deploy.rates import NOISE
    from swarm.experiments.sizing.units import size

    say("\n")
    columns = [
        Column("cache"),
        Column("cache_bytes", "KV memory", size, right=True),
        Column("bits_per_value", "bits per value", digits=4),
        Column("prompt_tokens", "prompt", right=True),
        Column("prefill_rate", "prefill tok/s", digits=3),
        Column("new_tokens", "new", right=True),
        Column("decode_rate", "decode tok/s", digits=3),
    ]
    listing(rows, columns)
    if agreement is not None:
        say(f"The first {agreement} of {len(first.tokens)} tokens are those of 16 bit.")
    if faster is not None:
        for doing, ratio in (("prefill", faster["prefill"]), ("decode", faster["decode"])):
            if ratio is not None and ratio >= NOISE:
                say(f"16 bit is faster here: {doing} at {ratio:.2f} times the rate.")


class CacheRow(TypedDict):
    """One generation: the cache that it used, memory and rates (tokens per second)."""

    cache: str
    cache_bytes: int
    bits_per_value: float
    prompt_tokens: int
    new_tokens: int
    prefill_rate: float
    decode_rate: float | None


class Speedup(TypedDict):
    """How many times as fast 16 bit is; None where there was no second token."""

    prefill: float
    decode: float | None


class Generation(TypedDict):
    """The text, and what each cache cost."""

    model: str
    text: str
    runs: list[CacheRow]
    same_tokens: int | None
    sixteen_bit_speedup: Speedup | None


def output() -> object:
    """What `--json` prints."""
    return Generation


def _row(cache: str, run: Generated) -> CacheRow:
    return {
        "cache": cache,
        "cache_bytes": run.cache_bytes,
        "bits_per_value": run.bits_per_value,
        "prompt_tokens": run.prompt_tokens,
        "new_tokens": len(run.tokens),
        "prefill_rate": run.prefill_rate,
        "decode_rate": run.decode_rate,
    }


def _speedup(first: Generated, other: Generated) -> Speedup:
    decode = other.decode_rate / first.decode_rate if first.decode_rate and other.decode_rate else None
    return {"prefill": other.prefill_rate / first.prefill_rate, "decode": decode}


def _agreement(first: Generated, other: Generated) -> int:
    """How many tokens are the same before the first difference."""
    pairs = list(zip(first.tokens, other.tokens, strict=False))
    return next((index for index, (a, b) in enumerate(pairs) if a != b), len(pairs))
