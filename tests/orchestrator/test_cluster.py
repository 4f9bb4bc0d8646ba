"""A Ray cluster of several nodes on this machine: campaigns on it, a node lost, workers where their back-end is."""

from __future__ import annotations

import json
import subprocess
import sys
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


ON_A_GPU = """
import json, sys, threading
from swarm.kernels import blas
blas.use_openblas(1)
from swarm.experiments.environment import code_version
from swarm.experiments.protocols.simulated import instruct
from swarm.orchestrator.cluster import Cluster, hidden_paths
from swarm.orchestrator.pool import Pool
from swarm.orchestrator.worker import Greeting, Worker, WorkerPlan

class OnSimulatedGpu(Worker):
    def greet(self):
        return Greeting("simulated", code_version())

    def run(self, spec):
        import ray
        found = super().run(spec.model_copy(update={"device": "cpu"}))
        where = ray.get_runtime_context()
        has = where.get_assigned_resources()
        return found.model_copy(update={"notes": json.dumps([where.get_node_id(), has["GPU"], ray.get_gpu_ids()])})

Cluster.actor_class = OnSimulatedGpu
pool = Pool(WorkerPlan(device="cuda", hidden=hidden_paths()), None, address=sys.argv[1])
pool.start()
workers = pool.workers
while pool.up < workers:
    pool.collect(30.0)
for number in range(12):
    pool.submit(number, instruct(number, milliseconds=200).model_copy(update={"device": "cuda"}))
found = {}
while len(found) < 12:
    found |= dict(pool.collect(30.0))
print(json.dumps({"workers": workers, "where": [json.loads(result.notes) for result in found.values()]}))
pool.close()
"""


def test_workers_share_a_gpu_beside_a_campaign_on_the_cpu(tmp_path, start, nodes):
    """The GPU is one of Ray's resources alone: what is tested is where workers go, and that nobody waits for others."""
    node = nodes.add_node(num_cpus=4, num_gpus=1, **NODE)
    nodes.wait_for_nodes(timeout=120)
    try:
        place = f"{tmp_path}/cpu.db"
        slow = start("launch", "--rehearsal", "1000", "--budget", "30", "--workers", "2", "--device", "cpu",
                     "--ray-address", nodes.address, "--store", place)  # fmt: skip
        wait_for(place, 1)
        done = subprocess.run(
            [sys.executable, "-c", ON_A_GPU, nodes.address], capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, done.stderr
        with Store.open(place, readonly=True) as store:
            assert store.trials.count(1).get("complete", 0) < 30  # the slower kind still runs
        found = json.loads(done.stdout)
        assert found["workers"] == 2  # one for two of the node's cores
        assert {(where, share, *gpus) for where, share, gpus in found["where"]} == {(node.node_id, 0.5, 0)}
        code, _, _, err = slow.end()
        assert code == 0, err
    finally:
        nodes.remove_node(node)


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
