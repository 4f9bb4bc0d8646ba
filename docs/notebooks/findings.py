# %% [markdown]
# # What a campaign found
#
# Reads a store into a polars data frame and plots it. Opens as a notebook in Jupyter (jupytext) and in editors that
# know `# %%` cells; also runs as a script. `SWARM_STORE` names the store; figures go to `FIGURES` when that is set.

# %%
import os
from pathlib import Path

import plotly.graph_objects as go
import polars as pl

import swarm

PLACE = os.environ.get("SWARM_STORE", "swarm.db")
FIGURES = os.environ.get("FIGURES")
store = swarm.open_store(PLACE)


def show(figure: go.Figure, name: str) -> None:
    """Display a figure, or write it to a file where nobody looks on."""
    if FIGURES:
        figure.write_html(Path(FIGURES) / f"{name}.html", include_plotlyjs="cdn")
    else:
        figure.show()


# %% [markdown]
# ## All trials, wide: one row per trial with the common metrics

# %%
trials = store.trials().to_polars().filter(pl.col("state") == "complete")
print(trials.select("trial_id", "model", "protocol", "rung", "configuration", "kld", "bits_per_value").head(10))

# %% [markdown]
# ## KLD against bits per value, and the Pareto front

# %%
cheap = trials.filter((pl.col("protocol") == "quality") & (pl.col("rung") == 0) & (pl.col("bits_per_value") < 9))
front = store.front().to_polars().filter((pl.col("protocol") == "quality") & (pl.col("rung") == 0))
figure = go.Figure(layout={"xaxis_title": "bits per value", "yaxis_title": "KLD (nats)", "yaxis_type": "log"})
for (model,), rows in cheap.group_by("model", maintain_order=True):
    best = front.filter((pl.col("model") == model) & (pl.col("bits_per_value") < 9)).sort("bits_per_value")
    figure.add_scatter(
        x=rows["bits_per_value"],
        y=rows["kld"],
        text=rows["configuration"],
        name=str(model),
        mode="markers",
        opacity=0.4,
    )
    figure.add_scatter(
        x=best["bits_per_value"],
        y=best["kld"],
        text=best["configuration"],
        name=f"{model}, front",
        mode="lines+markers",
    )
show(figure, "front")

# %% [markdown]
# ## How the error grows with depth

# %%
depth = store.query(
    "SELECT model, configuration, depth, avg(kld) AS kld FROM depth_curve WHERE mode = 'prefix' "
    "GROUP BY model, configuration, depth ORDER BY model, configuration, depth"
).to_polars()
figure = go.Figure(layout={"xaxis_title": "share of layers quantized", "yaxis_title": "KLD (nats)"})
for (model, configuration), rows in depth.group_by("model", "configuration", maintain_order=True):
    figure.add_scatter(x=rows["depth"], y=rows["kld"], name=f"{model} {configuration}", mode="lines+markers")
show(figure, "depth")

# %% [markdown]
# ## What the proposers were worth

# %%
credit = store.query(
    "SELECT proposer, arm, sum(trials) AS trials, sum(on_front) AS on_front, sum(predictions) AS predictions, "
    "sum(confirmed) AS confirmed, sum(refuted) AS refuted FROM agent_credit GROUP BY proposer, arm ORDER BY trials DESC"
).to_polars()
print(credit)

# %% [markdown]
# ## Findings with their effects

# %%
findings = store.findings()
print(findings.to_polars().select("id", "kind", "status", "statement"))
