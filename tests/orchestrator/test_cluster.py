"""A Ray cluster of several nodes on this machine: campaigns on it, a node lost, workers where their back-end is."""

from __future__ import annotations

import time

import chaos
import pytest
from ray.cluster_utils import Cluster

from swarm.memory.store import Store

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

NODE = {"object_store_memory": 80 << 20, "include_dashboard": False}


@pytest.fixture(scope="module")
def nodes():
    """A head that runs nothing, a node for trials on the CPU, and one that claims to have Metal."""
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0})
    cluster.add_node(num_cpus=2, wait=False, **NODE)
    cluster.add_node(num_cpus=1, resources={"metal": 1}, wait=False, **NODE)
    cluster.wait_for_nodes(timeout=120)
    yield cluster
    cluster.shutdown()


def whole(place: str, name: str, trials: int) -> None:
    with Store.open(place, readonly=True) as store:
        campaign = store.campaigns.get(name)
        records = store.trials.list(campaign.id)
        assert [record.number for record in records] == list(range(trials))
        assert {record.state for record in records} == {"complete"}
        assert len({record.fingerprint for record in records}) == trials
        assert store.ledger.totals(campaign.id)["trials"].spent == trials
        assert store.check() == []


def test_a_node_that_only_claims_a_back_end_is_named(swarm, nodes):
    done = swarm("launch", "--rehearsal", "1", "--budget", "2", "--ray-address", nodes.address, "--device", "metal")
    assert done.code == 1
    assert "MLX computes on cpu there, and the trials are for metal" in done.err
    done = swarm("launch", "--rehearsal", "1", "--budget", "2", "--ray-address", nodes.address, "--device", "cuda")
    assert done.code == 1
    assert "no node of the Ray cluster offers what a worker on cuda needs" in done.err


def test_a_node_is_lost_while_two_drivers_share_a_campaign(tmp_path, start, nodes, postgres_url):
    shared = ("--store", postgres_url, "--ray-address", nodes.address)
    first = start("launch", "--rehearsal", "100", "--budget", "60", "--name", "x", "--workers", "2", *shared)
    wait_for(postgres_url, 4)
    second = start("resume", "x", "--workers", "1", *shared)
    busy = next(node for node in nodes.worker_nodes if chaos.below(raylet(node), "ray::Worker"))
    nodes.remove_node(busy, allow_graceful=False)
    nodes.add_node(num_cpus=3, wait=False, **NODE)
    for driver in (first, second):
        code, _, _, err = driver.end()
        assert code == 0, err
    whole(postgres_url, "x", 60)


def raylet(node) -> int:
    return node.all_processes["raylet"][0].process.pid


def wait_for(place: str, count: int) -> None:
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        try:
            with Store.open(place, readonly=True) as store:
                if store.trials.count(1).get("complete", 0) >= count:
                    return
        except Exception:
            pass
        time.sleep(0.1)
    raise AssertionError("no trials are complete")
