"""`swarm decide`: whether a configuration loses more than a margin of its answers about long texts."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Literal

import typer
from typing_extensions import TypedDict

from swarm.experiments.sizing.units import parse_tokens
from swarm.kernels.errors import UsageError
from swarm.orchestrator.console import emit_json, note, say
from swarm.orchestrator.options import Json

PANEL = "Results"


def command(
    model: Annotated[str, typer.Option(help="Bundled name, Hugging Face id or folder.", show_envvar=False)],
    kv: Annotated[
        str, typer.Option(metavar="LABEL", help="Configuration, such as 'K q8_0 V q4_0'.", show_envvar=False)
    ],
    context: Annotated[str, typer.Option(metavar="TOKENS", help="Length of the texts.", show_envvar=False)] = "2K",
    margin: Annotated[float, typer.Option(metavar="POINTS", help="Points of 100 that may be lost.")] = 1.0,
    error: Annotated[float, typer.Option(metavar="P", help="Probability of a wrong verdict.")] = 0.05,
    questions: Annotated[int, typer.Option(min=1, help="Ask so many at most.")] = 2000,
    score: Annotated[
        Literal["match", "p"], typer.Option(help="Exact match of answers, or probability of the right one.")
    ] = "match",
    corpus: Annotated[
        str | None, typer.Option(metavar="FILE", help="Text to hide facts in: a file, or prose, code, dialogue.")
    ] = None,
    json: Json = False,
) -> None:
    """Say whether a cache loses more than a margin on questions about long texts: safe, harmful or undecided.

    Asks protocol `retrieval`'s questions in 16 bit and over the quantized cache until a sequential test is sure.
    Example: `swarm decide --model qwen2.5-coder-0.5b --kv "KV q8_0" --context 4K`
    """
    from swarm.experiments.environment import device
    from swarm.experiments.measurement.decision import decide
    from swarm.experiments.measurement.question_losses import question_losses
    from swarm.experiments.measurement.runner import Runner
    from swarm.experiments.protocols.base import protocol
    from swarm.experiments.spec import Measurement, TrialSpec
    from swarm.kernels.spec import KVSpec
    from swarm.orchestrator import long_contexts

    if not 0 < margin < 100:
        raise UsageError(f"--margin {margin:g} is not between 0 and 100 points.", "Give 1 for one point of 100.")
    runner = Runner(corpus=Path(corpus) if corpus else None)
    spec = TrialSpec(
        model=model,
        kv=KVSpec.parse(kv),
        protocol="retrieval",
        context=parse_tokens(context),
        device=device(),
    )
    subject = runner.subject(model)
    protocol(spec.protocol).check(spec, subject)
    long_contexts.check_questions(subject.info, spec.context, spec.device)
    able: list[float] = []

    def run(trial: TrialSpec) -> Measurement:
        measured = runner.run(trial)
        able.extend(measured.arrays["item_match_16bit"])
        return measured

    losses = chain.from_iterable(_told(question_losses(run, spec, score)))
    found = decide(islice(losses, questions), margin / 100, error)
    answer: DecisionRow = {
        "model": model,
        "configuration": spec.kv.label,
        "context": spec.context,
        "outcome": found.outcome,
        "questions": found.items,
        "loss": 100 * found.loss,
        "margin": margin,
        "answered_16bit": sum(able) / len(able),
    }
    if json:
        emit_json(answer)
    else:
        say(
            f"{found.outcome}: {answer['configuration']} on {model} lost {answer['loss']:.2f} points of 100 on "
            f"{found.items} questions about texts of {spec.context} tokens (margin {margin:g}). "
            f"16 bit answers {answer['answered_16bit']:.0%} of such questions."
        )


class DecisionRow(TypedDict):
    """What was decided, after how many questions; losses in points of 100; the share that 16 bit answers."""

    model: str
    configuration: str
    context: int
    outcome: Literal["safe", "harmful", "undecided"]
    questions: int
    loss: float
    margin: float
    answered_16bit: float


def output() -> object:
    """What `--json` prints."""
    return DecisionRow


def _told(replicates: Iterator[list[float]]) -> Iterator[list[float]]:
    """The losses as they come, with a line about each replicate on standard error."""
    asked, lost = 0, 0.0
    for losses in replicates:
        asked, lost = asked + len(losses), lost + sum(losses)
        note(f"{asked} questions asked, {100 * lost / asked:.2f} points lost so far")
        yield losses
