"""Specifications and measurements for tests of the store, which needs real types but no real models."""

from __future__ import annotations

from swarm.experiments.spec import Environment, Failure, Measurement, Metric, TrialSpec
from swarm.kernels.spec import KVSpec, QuantSpec
from swarm.memory.errors import LeaseLostError
from swarm.memory.records import Budget, CampaignRecord, Finding, Lease, Proposal, TrialRecord, TrialState
from swarm.memory.store import Store

ENVIRONMENT = Environment(device="cpu", platform="Linux x86_64", python="3.12.1", versions={"mlx": "0.32.0"})


def kv(bits: int = 4, value_bits: int | None = None) -> KVSpec:
    key = QuantSpec(method="affine", bits=bits, group_size=64)
    return KVSpec(key=key, value=QuantSpec(method="affine", bits=value_bits or bits, group_size=64))


def spec(seed: int = 0, model: str = "alpha", bits: int = 4, **fields: object) -> TrialSpec:
    return TrialSpec.model_validate({"model": model, "kv": kv(bits), "seed": seed, "protocol": "quality", **fields})


def proposal(seed: int = 0, model: str = "alpha", bits: int = 4, **fields: object) -> Proposal:
    taken = {name: fields.pop(name) for name in list(fields) if name in Proposal.model_fields}
    return Proposal.model_validate({"spec": spec(seed, model, bits, **fields), "proposer": "tpe", **taken})


def measurement(kld: float = 0.1, bits: float = 4.5, seconds: float = 0.5, **others: float) -> Measurement:
    values = {"kld": kld, "bits_per_value": bits, **others}
    metrics = tuple(Metric(name=name, value=value, n=8, stderr=value / 10) for name, value in values.items())
    return Measurement(
        metrics=metrics,
        arrays={"window_kld": (kld, 2 * kld, kld / 2), "layer_hidden_rel_error": (0.1, 0.2, 0.4)},
        environment=ENVIRONMENT,
        seconds={"run": seconds},
        notes="second half of 8 windows",
    )


def finding(*evidence: int, key: str = "plateau/alpha", status: str = "hypothesis", **fields: object) -> Finding:
    base = {
        "kind": "plateau",
        "statement": "The KLD of alpha stopped falling.",
        "models": ("alpha",),
        "author": "scout",
    }
    return Finding.model_validate({**base, "key": key, "evidence": evidence, "status": status, **fields})


def complete(store: Store, lease: Lease, result: Measurement) -> TrialRecord:
    """Write one measurement; a lost lease is an error."""
    return recorded(store, lease, result)


def fail(store: Store, lease: Lease, kind: str, message: str = "", seconds: float = 0.0) -> TrialState:
    """Write one failure; a lost lease is an error. Returns the state that the trial has now."""
    return recorded(store, lease, Failure(kind=kind, message=message, seconds=seconds)).state


def recorded(store: Store, lease: Lease, result: Measurement | Failure) -> TrialRecord:
    (record,) = store.record([(lease, store.trials.get(lease.trial_id), result)])
    if record is None:
        raise LeaseLostError(f"trial {lease.trial_id} has another owner.")
    return record


def first_campaign(store: Store) -> CampaignRecord:
    """The store's first campaign; made when there is none."""
    known = store.campaigns.list()
    return known[0] if known else store.campaigns.create("first", {"workers": 2}, Budget(trials=1000), seed=7)


def add_trial(store: Store, campaign: int, **fields: object) -> TrialRecord:
    """Add the next trial of a campaign."""
    number = store.campaigns.get(campaign).next_number
    return store.propose(campaign, number, proposal(**{"seed": number, **fields}))


def run_trial(
    store: Store,
    campaign: int,
    kld: float = 0.1,
    bits_measured: float = 4.5,
    metrics: dict[str, float] | None = None,
    **fields: object,
) -> TrialRecord:
    """Add the next trial of a campaign and complete it with the given objectives."""
    trial = add_trial(store, campaign, **fields)
    lease = store.queue.claim(trial.id, "worker")
    assert lease is not None
    complete(store, lease, measurement(kld, bits_measured, **(metrics or {})))
    return store.trials.get(trial.id)
