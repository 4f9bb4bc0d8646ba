"""What back-ends ask of nodes, what a node advertises, and that a worker says what its node lacks."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.experiments.text import Corpus
from swarm.kernels.errors import UsageError
from swarm.orchestrator import machine, settings, workload
from swarm.orchestrator.cluster import actor_options, resources, room, sharing_gpus
from swarm.orchestrator.commands import node
from swarm.orchestrator.worker import WorkerPlan, lacks

NODES = [
    {"Alive": True, "Resources": {"CPU": 8, "memory": 16e9}},
    {"Alive": True, "Resources": {"CPU": 4, "GPU": 2, "memory": 64e9}},
    {"Alive": True, "Resources": {"CPU": 8, "metal": 1, "memory": 64e9}},
    {"Alive": False, "Resources": {"CPU": 64, "GPU": 8, "memory": 1e12}},
]


@pytest.mark.parametrize(("device", "workers"), [("cpu", 16), ("cuda", 2), ("metal", 1)])
def test_workers_go_where_their_back_end_is_advertised(device, workers):
    assert room(NODES, resources(device)) == workers


def test_workers_on_the_cpu_go_to_nodes_with_gpus_where_there_are_no_others():
    assert room(NODES[1:2], resources("cpu")) == 4


def test_memory_bounds_the_workers_of_a_node():
    assert room(NODES[:1], resources("cpu", memory=5e9)) == 3
    assert room([], resources("cpu")) == 0


@pytest.mark.parametrize(
    ("workers", "share", "fit"), [(None, 1, 2), (1, 1, 2), (2, 1, 2), (3, 0.5, 4), (6, 0.3333, 4), (7, 0.25, 4)]
)
def test_workers_share_the_gpus_of_a_cluster_as_far_as_its_cores_go(workers, share, fit):
    wanted = sharing_gpus(resources("cuda"), NODES, workers)
    assert wanted == {"CPU": 1, "GPU": share}
    assert room(NODES, wanted) == fit  # the node with GPUs has four cores


def test_nothing_is_shared_where_there_is_no_gpu():
    assert sharing_gpus(resources("cpu"), NODES, 30) == resources("cpu")
    assert sharing_gpus(resources("cuda"), NODES[:1], 3) == resources("cuda")


@given(cores=st.integers(1, 256), free=st.floats(0, 1e12), needs=st.floats(1e6, 1e11))
def test_workers_of_a_gpu_fit_into_its_memory_and_cores(cores, free, needs):
    workers = machine.workers_per_gpu(cores, free, needs)
    assert 1 <= workers <= machine.MAX_WORKERS_PER_GPU
    assert workers == 1 or (workers * needs <= free and workers * machine.CORES_PER_GPU_WORKER <= cores)


def test_workers_of_an_idle_gpu_with_many_cores():
    assert machine.workers_per_gpu(16, 140e9, machine.WORKER_BYTES + machine.CUDA_BYTES) == 8
    assert machine.workers_per_gpu(16, 16e9, machine.WORKER_BYTES + machine.CUDA_BYTES) == 4


def test_memory_of_a_worker_grows_with_the_model_and_the_context(tiny_models):
    def needed(**given):
        return workload.device_bytes(settings.load(models=tiny_models["llama"], **given))

    assert needed() == machine.WORKER_BYTES + machine.CUDA_BYTES
    assert needed(long="8192K") > needed(long="4096K") > needed()


def test_what_is_asked_of_ray():
    assert actor_options(resources("cuda", memory=2.5e9)) == {"num_cpus": 1, "num_gpus": 1, "memory": 2_500_000_000}
    assert actor_options(resources("metal")) == {"num_cpus": 1, "num_gpus": 0, "resources": {"metal": 1}}


def test_a_node_advertises_what_it_computes_on():
    assert node.advertised("cpu") == "cpu"
    assert "--num-gpus=0" in node.ray_start(None, 6379, "cpu")
    line = node.ray_start(None, 6379, "metal")
    assert json.loads(line[line.index("--resources") + 1]) == {"metal": 1}
    with pytest.raises(UsageError, match="abacus"):
        node.advertised("abacus")
    with pytest.raises(UsageError, match="no answer"):
        node.ray_start("127.0.0.1:1", 6379, "cpu")


def test_a_worker_says_what_its_node_lacks(tiny_models):
    text = Corpus.open(None).digest
    assert lacks(WorkerPlan(models=(tiny_models["llama"],), corpus_digest=text), text) == ""
    assert "text is another one" in lacks(WorkerPlan(corpus_digest=text), "0" * 64)
    assert "MLX computes on cpu" in lacks(WorkerPlan(device="metal"), text)
