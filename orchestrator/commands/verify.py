"""`swarm verify`: whether a build, flags or a server corrupt the KV cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from swarm.orchestrator.console import Column, emit_json, listing, note, say
from swarm.orchestrator.options import Json

if TYPE_CHECKING:
    from swarm.experiments.engines.verify.answers import ServerUnderTest
    from swarm.experiments.engines.verify.features import Feature, Round
    from swarm.experiments.engines.verify.verdict import Verification

PANEL = "Use"
CHUNK = 64
"""Tokens of a prompt that an engine started here computes at a time, unless --flags say otherwise."""
MOST = 1024
"""Tokens up to which the borders of a server's chunks are tested without being asked for."""
SPARE = 64
"""Tokens of context beyond the longest prompt, for what is generated."""


def command(
    engine: Annotated[
        str | None, typer.Option(metavar="ENGINE", help="Engine to start: llama.cpp, mlx-lm, vllm or ollama.")
    ] = None,
    flags: Annotated[
        str, typer.Option(metavar="A=B,..", help="Its flags, as in cache-type-k=q8_0,flash-attn=on.")
    ] = "",
    endpoint: Annotated[str | None, typer.Option(metavar="URL", help="A running server, instead of --engine.")] = None,
    model: Annotated[str | None, typer.Option(help="The model.  [default: the only one of the endpoint]")] = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="URL|FLAGS", help="Compare with another server, or the engine with other flags."),
    ] = None,
    feature: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Test this alone. Repeatable.  [default: all]")
    ] = None,
    round_: Annotated[int | None, typer.Option("--round", min=1, help="Show the numbers of one round.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds at most.")] = 16,
    minutes: Annotated[float, typer.Option(min=0.1, help="Minutes at most.")] = 10.0,
    tokens: Annotated[int, typer.Option(min=16, help="Tokens of a prompt.")] = 40,
    clients: Annotated[int, typer.Option(min=1, max=16, help="Prompts at once.")] = 2,
    chunk: Annotated[int | None, typer.Option(help="Tokens that the server computes at a time.")] = None,
    window: Annotated[int | None, typer.Option(help="Sliding window of the model.")] = None,
    shift: Annotated[int | None, typer.Option(help="Context after which it shifts; needs --against.")] = None,
    remembered: Annotated[int | None, typer.Option(help="Prompts that the server remembers.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides the prompts.")] = 0,
    corpus: Annotated[str | None, typer.Option(metavar="FILE", help="Text that prompts are cut from.")] = None,
    api_key: Annotated[str, typer.Option(metavar="KEY", help="Sent to the servers.", show_default=False)] = "",
    json: Json = False,
) -> None:
    """Test whether a server corrupts its KV cache, and name the feature at fault.

    Log-probabilities of what it generates with each feature (a remembered prompt, a shared beginning, several clients,
    the border of a chunk or window) beside those without. A clean server is blamed in at most one of 100 runs. Exits
    with 1 when a feature is blamed.

    Examples: `swarm verify --engine llama.cpp --model gemma3-270m --flags cache-type-k=q8_0,cache-type-v=q8_0`,
    `swarm verify --endpoint http://localhost:8080`
    """
    from pathlib import Path

    from swarm.experiments.engines.verify import verdict
    from swarm.experiments.engines.verify.features import Texts
    from swarm.experiments.text import Corpus
    from swarm.kernels.errors import UsageError

    if (engine is None) == (endpoint is None):
        raise UsageError("what to test is not clear.", "Give --engine or --endpoint, one of them.")
    if shift is not None and against is None:
        raise UsageError("a shifted context can be tested beside another server only.", "Give --against.")
    text = Corpus.open(Path(corpus) if corpus else None).text
    asked = _Asked(engine, flags, endpoint, model, against, chunk, window, shift, remembered, api_key)
    with _targets(asked, clients) as (subject, other):
        tested = _features(subject.tested, feature or [])
        texts = Texts.measured(subject.server, text, seed)
        if round_ is not None:
            from swarm.experiments.engines.verify.features import Round

            _pairs(tested, Round(subject.server, texts.of(round_), tokens, clients, other))
            return
        for line in subject.notes:
            note(line)
        found = verdict.run(
            subject.server, texts, tested, tokens=tokens, clients=clients, rounds=rounds, seconds=60 * minutes,
            against=other, tell=note,
        )  # fmt: skip
        again = f"{asked.line} --tokens {tokens} --clients {clients} --seed {seed}"
        show_with = [f"{again} --feature {one.feature} --round {one.worst_round}" for one in found.blamed]
    if json:
        server = {"engine": subject.server.engine.name, "model": subject.server.model}
        emit_json({**server, **found.model_dump(mode="json"), "show_with": show_with})
    else:
        _show(found, show_with)
    if found.blamed:
        raise typer.Exit(1)


def output() -> object:
    """What `--json` prints: the result, with the commands that show what is at fault."""
    from pydantic import create_model

    from swarm.experiments.engines.verify.verdict import Verification

    added: dict[str, Any] = {"engine": (str, ...), "model": (str, ...), "show_with": (list[str], ...)}
    return create_model("Verified", __base__=Verification, **added)


@dataclass(frozen=True)
class _Asked:
    """The options that say what is tested."""

    engine: str | None
    flags: str
    endpoint: str | None
    model: str | None
    against: str | None
    chunk: int | None
    window: int | None
    shift: int | None
    remembered: int | None
    api_key: str

    @property
    def line(self) -> str:
        """The command with these options, the key left to be filled in."""
        shown = {**vars(self), "api_key": self.api_key and "KEY"}
        given = [(name.replace("_", "-"), value) for name, value in shown.items() if value not in (None, "")]
        return " ".join(("swarm verify", *(f"--{name} {value}" for name, value in given)))


@dataclass(frozen=True)
class _Subject:
    """A server that answers, what of it can be tested, and what cannot."""

    server: ServerUnderTest
    tested: list[Feature]
    notes: list[str]


@contextmanager
def _targets(asked: _Asked, clients: int) -> Iterator[tuple[_Subject, ServerUnderTest | None]]:
    """The server under test and the one beside it, started where that is asked for."""
    with ExitStack() as stack:
        if asked.endpoint is not None:
            server = _at(asked.endpoint, asked)
            subject = _Subject(server, *_tested(asked, server.engine.chunk[1], asked.window))
        else:
            subject = stack.enter_context(_started(asked, asked.flags, clients))
        other = None
        if asked.against is not None and ("/" in asked.against or ":" in asked.against):
            other = _at(asked.against, asked)
        elif asked.against is not None:
            other = stack.enter_context(_started(asked, asked.against, clients)).server
        yield subject, other


def _at(url: str, asked: _Asked) -> ServerUnderTest:
    from swarm.experiments.engines.probe.endpoint import Endpoint
    from swarm.experiments.engines.verify.answers import ServerUnderTest

    endpoint = Endpoint(url, asked.model, api_key=asked.api_key)
    return ServerUnderTest(endpoint.host, endpoint.engine, endpoint.model, asked.remembered)


@contextmanager
def _started(asked: _Asked, flags: str, clients: int) -> Iterator[_Subject]:
    """The engine, started with flags; prompts are computed in small chunks unless they say otherwise."""
    from swarm.experiments.engines.run.process import running
    from swarm.experiments.engines.run.startable import startable
    from swarm.experiments.engines.verify.answers import ServerUnderTest
    from swarm.experiments.models import registry
    from swarm.kernels.errors import SwarmError, UsageError

    if asked.engine is None or asked.model is None:
        raise UsageError("an engine is started with a model.", "Give --engine and --model.")
    engine = startable(asked.engine)
    given = _flags(flags)
    name = engine.chunk[0]
    if name:
        given = {name: CHUNK, **given}
    window = asked.window
    if window is None and not asked.model.endswith(".gguf"):
        try:
            layers = registry.describe(asked.model).layers
        except SwarmError:
            layers = ()
        window = min((layer.window for layer in layers if layer.window), default=None)
    tested, notes = _tested(asked, int(given.get(name, 0)) if name else 0, window)
    context = asked.shift or max(MOST, 2 * (window or 0)) + SPARE
    with running(engine, asked.model, given, context=context, clients=clients) as started:
        yield _Subject(ServerUnderTest(started.host, engine, started.model, asked.remembered), tested, notes)


def _flags(text: str) -> dict[str, int | str]:
    from swarm.experiments.engines.run.flags import EngineSpec

    return dict(EngineSpec.parse(" ".join(("engine", *text.replace(",", " ").split()))).flags)


def _tested(asked: _Asked, chunk: int, window: int | None) -> tuple[list[Feature], list[str]]:
    """The features that can be tested, and what is not."""
    from swarm.experiments.engines.verify import features

    found, notes = [features.REUSE, features.PARTED, features.SLOTS], []
    size = asked.chunk or chunk
    if asked.chunk or 0 < size <= MOST:
        found.append(features.border("chunk", "the border of a chunk", size))
    else:
        notes.append("Borders of chunks are not tested: --chunk TOKENS does, with prompts of that length.")
    if window is not None:
        found.append(features.border("window", "the end of the sliding window", window))
    if asked.shift is not None:
        found.append(features.shift(asked.shift))
    return found, notes


def _features(tested: Sequence[Feature], wanted: Sequence[str]) -> list[Feature]:
    from swarm.kernels.errors import UnknownNameError

    known = {feature.name: feature for feature in tested}
    for name in wanted:
        if name not in known:
            raise UnknownNameError("feature", name, ", ".join(known))
    return [known[name] for name in wanted] if wanted else list(tested)


def _pairs(tested: Sequence[Feature], round_: Round) -> None:
    """Show the log-probabilities of one round, with and without each feature."""
    for feature in tested:
        for pair in feature.measure(round_):
            say(f"{feature.name}: {feature.what}; mean difference {pair.difference or 0.0:.3g} nat", style="bold")
            for place, (a, b) in enumerate(zip(pair.reference, pair.other, strict=False)):
                tokens = sorted(a, key=lambda token: -a[token])[:4]
                rows = [{"token": token, "without": a[token], "with": b.get(token)} for token in tokens]
                say(f"position {place}")
                listing(rows, [Column("token"), Column("without", digits=5), Column("with", digits=5)])


def _said(row: dict[str, Any]) -> str:
    if row["blamed"]:
        return "AT FAULT"
    if not row["rounds"]:
        return "not judged"
    return "not exercised" if row["cached"] == 0 else "no fault seen"


def _show(found: Verification, commands: Sequence[str]) -> None:
    rows: list[dict[str, Any]] = [one.model_dump() for one in found.suspicions]
    for row in rows:
        row["says"] = _said(row)
    listing(
        rows,
        [
            Column("feature"),
            Column("what", "what is done"),
            Column("exceeded", "beyond noise", right=True),
            Column("rounds", right=True),
            Column("largest", "largest, nat", digits=2),
            Column("says", "verdict"),
        ],
    )
    say(
        f"\nNoise {found.noise:.2g} nat in {found.calibrations} calibrations; {found.rounds} rounds in "
        f"{found.seconds:.0f} s. A clean server is blamed in at most 1 of 100 runs."
    )
    if found.is_undecided:
        say("Too few calibrations to judge any feature: give more --rounds.")
    for line in commands:
        say(f"Shown by: {line}")
