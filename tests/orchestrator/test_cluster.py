"""A Ray cluster of several nodes on this machine: campaigns on it, a node lost, workers where their back-end is."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import chaos
import pytest
from ray.cluster_utils import Cluster

from swarm.agents.history import History
from swarm.memory.store import Store
from swarm.orchestrator.rehearsal import Rehearsal

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
        code, _, err = driver.end()
        assert code == 0, err
    whole(postgres_url, "x", 60)


SIMULATED = """
import json, sys, time
from swarm.kernels import blas
blas.use_openblas(1)
from swarm.experiments.environment import code_version
from swarm.orchestrator.cluster import Cluster
from swarm.orchestrator.worker import Greeting, Worker

class OnSimulatedGpu(Worker):
    def greet(self):
        return Greeting("simulated", code_version())

    def run(self, spec):
        import ray
        where = ray.get_runtime_context()
        share = where.get_assigned_resources().get("GPU", 0)
        if not share:
            time.sleep(1.0)  # the slower kind
        found = super().run(spec.model_copy(update={"device": "cpu"}))
        return found.model_copy(update={"notes": json.dumps([where.get_node_id(), share, *ray.get_gpu_ids()])})

Cluster.actor_class = OnSimulatedGpu
"""
COMMAND = f"{SIMULATED}\nfrom swarm.orchestrator.cli import main; main()"
LAUNCH = f"""{SIMULATED}
from swarm.orchestrator import devices, foreground, settings
flags = dict(pair.split("=", 1) for pair in sys.argv[1:])
with foreground.StopSignals() as signals:
    sys.exit(devices.launch(settings.load(**flags), flags, signals, (sys.executable, "-c", {COMMAND!r})))
"""


@pytest.fixture
def gpu_node(nodes):
    """A node with a GPU that is one of Ray's resources alone: what is tested is where workers go, and who waits."""
    node = nodes.add_node(num_cpus=4, num_gpus=1, **NODE)
    nodes.wait_for_nodes(timeout=120)
    yield node
    nodes.remove_node(node)


@pytest.mark.parametrize("seed", [0, 3])
def test_a_launch_on_two_devices_is_a_campaign_for_each_and_none_waits_for_the_other(tmp_path, nodes, gpu_node, seed):
    place = f"{tmp_path}/both.db"
    flags = {"device": "cuda,cpu", "rehearsal": "20", "budget": "40", "name": "x", "seed": seed, "store": place}
    done = subprocess.run(
        [sys.executable, "-c", LAUNCH, *(f"{k}={v}" for k, v in {**flags, "ray_address": nodes.address}.items())],
        capture_output=True, text=True, timeout=240, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {line.split()[0] for line in done.stdout.splitlines()} >= {"cuda", "cpu"}
    with Store.open(place, readonly=True) as store:
        campaigns = {device: store.campaigns.get(f"x-{device}") for device in ("cuda", "cpu")}
        trials = {device: store.trials.list(campaign.id) for device, campaign in campaigns.items()}
    workers = {device: campaign.settings["workers"] for device, campaign in campaigns.items()}
    assert workers["cuda"] == 2  # one for two of the node's cores
    of_cuda = round(40 * 2 / sum(workers.values()))
    whole(place, "x-cuda", of_cuda)
    whole(place, "x-cpu", 40 - of_cuda)
    for device, records in trials.items():
        alone = Rehearsal.parse("20", seed, device)  # the trials are those of a campaign on that device alone
        assert [r.spec for r in records] == [alone.propose(n, History(())).spec for n in range(len(records))]
    where = {device: {tuple(json.loads(r.notes)) for r in records} for device, records in trials.items()}
    assert where["cuda"] == {(gpu_node.node_id, 0.5, 0)}
    assert gpu_node.node_id not in {node for node, *_ in where["cpu"]}
    last = {device: max(r.finished_at for r in records) for device, records in trials.items()}
    assert sum(r.finished_at < last["cuda"] for r in trials["cpu"]) < len(trials["cpu"])


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
