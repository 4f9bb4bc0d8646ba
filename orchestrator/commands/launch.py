"""`swarm launch`: a new campaign, from models to summary."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from swarm.orchestrator.options import Agenda, DeviceName, Llm, LlmModel, RayAddress, StoreUrl, TrialTimeout, Workers

PANEL = "Campaigns"
PREFIX = "SWARM"


def command(
    budget: Annotated[int | None, typer.Option(help="Trials to run, all kinds.  [default: 330]")] = None,
    models: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Bundled names, Hugging Face ids or folders.  [default: the bundled ones]"),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the campaign.  [default: campaign-N]")] = None,
    store: StoreUrl = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same campaign.  [default: 0]")] = None,
    workers: Workers = None,
    ray_address: RayAddress = None,
    device: DeviceName = None,
    context: Annotated[
        str | None, typer.Option(metavar="TOKENS", help="Tokens per text window, as in 512 or 16K.  [default: 512]")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(metavar="NAME", help="Search the flags of llama.cpp, mlx-lm, vllm or ollama instead.")
    ] = None,
    max_kld: Annotated[
        float | None, typer.Option(metavar="NATS", help="Divergence from 16 bit that is still useful.  [default: 1]")
    ] = None,
    long: Annotated[
        str | None,
        typer.Option(
            metavar="TOKENS",
            help="Try finalists at such a context too; off for none.  [default: 2K from 200 trials on]",
        ),
    ] = None,
    protocols: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="What they are tried with, such as generation.  [default: context,retrieval]"),
    ] = None,
    corpus: Annotated[
        str | None, typer.Option(metavar="FILE", help="Text to measure on: a file, or prose, code, dialogue.")
    ] = None,
    control_share: Annotated[
        float | None, typer.Option(help="Share of random and plain TPE trials.  [default: 0.2]")
    ] = None,
    time_limit: Annotated[str | None, typer.Option(metavar="TIME", help="Such as 90s, 10m or 1h30m.")] = None,
    trial_timeout: TrialTimeout = None,
    llm: Llm = None,
    llm_model: LlmModel = None,
    max_tokens: Annotated[int | None, typer.Option(help="LLM tokens to spend at most.")] = None,
    max_usd: Annotated[float | None, typer.Option(help="USD to spend at most on LLM calls.")] = None,
    agenda: Agenda = None,
    kernel_contexts: Annotated[
        str | None,
        typer.Option(metavar="TOKENS", help="On a GPU, where kernels are timed.  [default: 8K,32K,128K]"),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="On a GPU, also time kernels for a model that `swarm plan` knows."),
    ] = None,
    rehearsal: Annotated[
        str | None, typer.Option(metavar="MS", help="Run trials that do nothing for so long, to try the machinery.")
    ] = None,
) -> None:
    """Run a new campaign and end with findings and a summary.

    Every option also comes from `swarm.toml` (same name, `_` for `-`) and from `SWARM_*` variables; flags win over
    variables, variables over the file. Ctrl-C stops within seconds; `swarm resume` goes on.

    Examples: `swarm launch --budget 330`, `swarm launch --models gemma3-270m --time-limit 10m --name gemma`,
    `swarm launch --ray-address HEAD:6379 --device cuda,cpu`,
    `swarm launch --engine llama.cpp --models FILE.gguf --context 4K --max-kld 0.05 --budget 60`
    """
    _launch(
        budget=budget, models=models, name=name, store=store, seed=seed, workers=workers, ray_address=ray_address,
        device=device, engine=engine, max_kld=max_kld,
        context=context, long=long, protocols=protocols, corpus=corpus, control_share=control_share,
        time_limit=time_limit, trial_timeout=trial_timeout, llm=llm, llm_model=llm_model, max_tokens=max_tokens,
        max_usd=max_usd, agenda=agenda, kernel_contexts=kernel_contexts, shape=shape, rehearsal=rehearsal,
    )  # fmt: skip


def _launch(**flags: Any) -> None:
    from swarm.orchestrator import devices, foreground, launching, settings, workload

    chosen = settings.load(**flags)
    workload.check(chosen)
    with foreground.StopSignals() as signals:
        if len(chosen.devices) > 1:
            foreground.prepare(chosen)
            code = devices.launch(chosen, flags, signals)
            raise typer.Exit(signals.exit_code or code)
        with launching.start(chosen, signals.arm, foreground.prepare) as campaign:
            foreground.run(campaign, signals)
    raise typer.Exit(signals.exit_code)
