"""The page of the benchmark `trials`: what runs say about each model, and the page's tables and verdicts."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import _final, _frame

from swarm.experiments.measurement.prefill import WINDOWS

OURS = "swarm"
CAREFUL = "careful loop"
ACTIVATIONS = "careful loop, our activations"
FULL = "swarm, full fidelity for all"
OUT_OF_THE_BOX = "mlx-lm out of the box"
ROUNDS = 3
"""Parts that the careful loop is cut into, for the spread of its rate."""
GOALS = {"ratio": 5.0, "tau": 0.9, "minutes": 4.0}

HAVE = f"""\
- **{OURS}**: the runner that workers use, a campaign's turns and its promotion by noise-aware Pareto rank. Captures are
  made anew. What store and driver cost is in the benchmark `overhead`, and in the campaign below.
- **{CAREFUL}**: mlx-lm's model in float32 on the same OpenBLAS (one line), loaded once; the 16-bit run once, its logits
  and probabilities kept; all windows as one batch; the head only where it is scored. The cache under test is patched
  in, so attention over it is ours as well (numpy's, faster here than MLX's own). MLX's own activations. One process
  per model and core. KLD by a formula of its own.
- **{ACTIVATIONS}**: the same with our numpy activations, which are no part of mlx-lm, on the first few
  configurations: how much of the ratio is due to them.
- **{FULL}**: our runner doing the careful loop's work, on the same few: whether the numbers agree.
- **{OUT_OF_THE_BOX}**: MLX's own BLAS and 16-bit floats, `QuantizedKVCache` made by `to_quantized`, the logits of all
  positions, the 16-bit run anew for each configuration. It has affine quantization only, the same bits for keys and
  values, on all layers, and none for sliding windows (`RotatingKVCache.to_quantized` is not implemented), so there is
  no run on Gemma. It reads the first of the {WINDOWS} windows; its time is counted {WINDOWS} times.
"""


def compared(found: Mapping[str, list[dict[str, Any]]], places: Sequence[int]) -> dict[str, Any]:
    """What the runs of all contestants on one model say.

    Args:
        found: runs by contestant.
        places: which of the configurations the out-of-the-box runs had.
    """
    ours, careful = found[OURS], found[CAREFUL][0]
    count = len(careful["answers"])
    first, answers = ours[0], careful["answers"]
    truth = _final.levels(answers)
    result: dict[str, Any] = {"configurations": count, "top": min(_final.TOP, count), "promoted": len(first["dear"])}
    for clock, ready in (("wall", "ready"), ("cpu", "ready_cpu")):
        each = [(sum(run[clock]) + run[ready]) / count for run in ours]
        size = -(-count // ROUNDS)
        parts = [careful[clock][start : start + size] for start in range(0, count, size)]
        theirs = [statistics.fmean(part) + careful[ready] / count for part in parts]
        bare = [[statistics.fmean(run[clock]) for run in ours], [statistics.fmean(part) for part in parts]]
        result[clock] = {
            OURS: each,
            CAREFUL: theirs,
            "ratio": _frame.ratio(theirs, each),
            "ratio_without_setup": _frame.ratio(bare[1], bare[0]),
        }
    result["setup"] = {name: statistics.median(run["ready"] for run in runs) for name, runs in found.items()}
    result["rungs"] = {rung: statistics.fmean(x) for rung, x in first["seconds"].items() if x}
    result["tau"] = _final.tau(truth, _final.merged(first["cheap"], first["dear"]))
    result["agreement"] = _final.agreement(answers, first["dear"])
    front = _final.best(answers)
    result["front"] = {"true": len(front), "measured": sum(str(p) in {str(k) for k in first["dear"]} for p in front)}
    lap = statistics.fmean(careful["wall"])
    first_rung, second_rung = (result["rungs"].get(rung, 0.0) for rung in ("rung 0", "rung 1"))
    result["curve"] = [
        point | {"ratio": lap / (first_rung + point["share"] * second_rung)} if second_rung else point
        for point in _final.curve(answers, first["cheap"], first["order"])
    ]
    if len(ours) > 1:
        result["repeats"] = all(run["cheap"] == first["cheap"] and run["dear"] == first["dear"] for run in ours[1:])
    for name in (ACTIVATIONS, FULL):
        for run in found.get(name, ()):
            pairs = zip(careful["wall"], run["wall"], strict=False)
            result[name] = {
                "times": statistics.median(a / b for a, b in pairs),
                "agreement": _final.agreement(answers, dict(enumerate(run["answers"]))),
            }
    if {ACTIVATIONS, FULL} <= set(found):
        full = dict(enumerate(found[FULL][0]["answers"]))
        result["same_activations"] = _final.agreement(found[ACTIVATIONS][0]["answers"], full)
    if OUT_OF_THE_BOX in found:
        run = found[OUT_OF_THE_BOX][0]
        each = [WINDOWS * seconds for seconds in run["wall"]]
        result["packed"] = {
            "wall": each,
            "ratio": _frame.ratio(each, result["wall"][OURS]),
            "kld": [[a["kld"], answers[place]["windows"][0]] for a, place in zip(run["answers"], places, strict=True)],
        }
    return result


def page(record: _frame.Results) -> str:
    """The page of a record."""
    from benchmarks import trials

    results = record["results"]
    about = (trials.__doc__ or "").partition("\n\n")[2].strip()
    parts = [
        _frame.heading(record, "Trials: real trials per minute"),
        about + "\n",
        f"Windows of {results['context']} tokens, {WINDOWS} of them; KLD and same-top-1 against the 16-bit run, and "
        "bits/value, of each.\n",
        HAVE,
        "## Rates\n",
        _rates(results["models"]),
        "Seconds per configuration and the ratios include what each contestant does once (loading, text, the 16-bit "
        "run or captures). Ratios: medians, with the extremes over all pairs of our runs and thirds of theirs.\n",
        *_rankings(results["models"]),
        *_lessons(results["models"]),
    ]
    if results["campaign"]:
        parts += ["## A campaign\n", _campaign(results["campaign"])]
    return "\n".join((*parts, verdict(results)))


def _rates(models: Mapping[str, Any]) -> str:
    rows = []
    for name, found in models.items():
        wall = found["wall"]
        each = statistics.median(wall[OURS])
        rows.append((f"{name}, {OURS}", found["configurations"], f"{each:.2f}", f"{60 / each:.1f}", "", ""))
        each = statistics.median(wall[CAREFUL])
        times = (_frame.times(wall["ratio"]), _frame.times(found["cpu"]["ratio"]))
        rows.append((f"{name}, {CAREFUL}", found["configurations"], f"{each:.2f}", f"{60 / each:.1f}", *times))
        if "packed" in found:
            packed = found["packed"]
            each = statistics.median(packed["wall"])
            line = (len(packed["wall"]), f"{each:.1f}", f"{60 / each:.2f}", _frame.times(packed["ratio"]), "")
            rows.append((f"{name}, {OUT_OF_THE_BOX}", *line))
    columns = ("", "configurations", "seconds each", "per minute", "x ours", "x ours, CPU time")
    return _frame.table(columns, rows)


def _rankings(models: Mapping[str, Any]) -> list[str]:
    parts = [
        "## The same ranking?\n",
        "The final ranking is by KLD at full fidelity. Ours has measured it for what was promoted; for the others it "
        "is what a line through the promoted ones makes of their KLD on the cheap rung (logarithms). Kendall's tau is "
        "over the careful loop's best. `front`: configurations on the careful loop's Pareto front of KLD and "
        "bits/value, and how many of them ours measured at full fidelity.\n",
    ]
    rows = []
    for name, found in models.items():
        front = found["front"]
        cells = (f"{found['promoted']} of {found['configurations']}", f"{found['tau']:.3f} on {found['top']}")
        rows.append((name, *cells, f"{front['measured']} of {front['true']}"))
    parts.append(_frame.table(("", "promoted", "tau", "front"), rows))
    rows = []
    for name, found in models.items():
        kinds = {
            f"{CAREFUL} and what {OURS} promoted": found["agreement"],
            f"{CAREFUL} and {FULL}": found.get(FULL, {}).get("agreement", {"n": 0}),
            f"{ACTIVATIONS} and {FULL}": found.get("same_activations", {"n": 0}),
        }
        for kind, same in kinds.items():
            if same["n"]:
                cells = (
                    f"{same[key]:.1e}" for key in ("kld_median", "kld_largest", "same_top1_largest", "bits_largest")
                )
                rows.append((f"{name}: {kind}", same["n"], *cells))
    if rows:
        parts += [
            "Where two measured the same (configuration, rung and windows), the numbers differ by so much; KLD "
            "relatively, the others absolutely. MLX's activations and ours round differently, which quantized runs "
            "amplify; the last row shows what is left with the same activations.\n",
            _frame.table(("", "n", "KLD, median", "KLD, largest", "same-top-1, largest", "bits, largest"), rows),
        ]
    for name, found in models.items():
        if "packed" in found:
            pairs = ", ".join(f"{theirs:.4f} and {mine:.4f}" for theirs, mine in found["packed"]["kld"])
            parts.append(
                f"{name}, KLD of the first window under mlx-lm's own quantized cache (16-bit floats, its own "
                f"attention) and in the careful loop: {pairs}.\n"
            )
    return parts


def _lessons(models: Mapping[str, Any]) -> list[str]:
    parts = [
        "## Where the time goes\n",
        "Had other shares been promoted (the best of the cheap rung first), from the same measurements; set-up left "
        "out:\n",
    ]
    for name, found in models.items():
        rows = [
            (f"{100 * p['share']:.0f}%", f"{p['tau']:.3f}", f"{p['ratio']:.2f}x" if "ratio" in p else "")
            for p in found["curve"]
        ]
        parts += [f"{name}\n", _frame.table(("promoted", "tau", "x ours"), rows)]
        rungs = ", ".join(f"{rung} {seconds:.2f} s" for rung, seconds in found["rungs"].items())
        text = f"{name}: ours takes {rungs} each"
        text += f", and {found['setup'][OURS]:.1f} s before; the careful loop {found['setup'][CAREFUL]:.1f} s before."
        for kind in (ACTIVATIONS, FULL):
            if kind in found:
                text += (
                    f" {kind.capitalize()}: {found[kind]['times']:.2f} times the careful loop's rate (set-up left out)."
                )
        parts.append(text + "\n")
    return parts


def _campaign(found: Mapping[str, Any]) -> str:
    rows = [
        (kind, one["trials"], f"{one['seconds']:.0f}", f"{one['seconds'] / one['trials']:.2f}")
        for kind, one in found["kinds"].items()
    ]
    inside = sum(one["seconds"] for one in found["kinds"].values())
    return (
        f"`swarm launch --budget {found['trials']}` with its defaults, in a new folder, models already converted, no "
        f"captures of earlier campaigns: {found['wall']:.0f} s from start to summary, {found['complete']} of "
        f"{found['trials']} trials complete, {60 * found['trials'] / found['wall']:.0f} a minute. Workers spent "
        f"{inside:.0f} s inside trials, in which the captures are made, "
        f"{inside / found['wall']:.2f} for each second of the campaign.\n\n"
        + _frame.table(("trials", "number", "seconds in all", "each"), rows)
    )


def verdict(results: _frame.Results) -> str:
    lines = []
    for name, found in results["models"].items():
        ratio, tau = found["wall"]["ratio"], found["tau"]
        lines.append(
            _frame.said(f"{name}: 5 times the careful loop", ratio["ratio"] >= GOALS["ratio"], _frame.times(ratio))
        )
        if found["top"] == _final.TOP:
            lines.append(
                _frame.said(
                    f"{name}: Kendall's tau at least 0.9 on the top {_final.TOP}", tau >= GOALS["tau"], f"{tau:.3f}"
                )
            )
    if results["campaign"]:
        minutes = results["campaign"]["wall"] / 60
        whole = results["campaign"]["complete"] == results["campaign"]["trials"]
        met = whole and minutes <= GOALS["minutes"]
        lines.append(_frame.said("330 trials in at most 4 minutes on 2 cores", met, f"{minutes:.1f} minutes"))
    return "## The goals\n\n" + "\n".join(lines) + "\n"
