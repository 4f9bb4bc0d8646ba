import errno
import json
import multiprocessing
import os
import shutil
import time
from functools import partial

import numpy as np
import pytest

from swarm.experiments.artifacts import CacheError, CaptureStore, CaptureWriter
from swarm.kernels.errors import DiskFullError

KEY = {"model": "tiny", "context": 64}


class Maker:
    """Counts how often it is asked."""

    def __init__(self, seed=0):
        self.calls = 0
        self.values = np.random.default_rng(seed).normal(size=(3, 4, 5)).astype(np.float16)

    def __call__(self, draft):
        self.calls += 1
        draft.save("values", self.values)
        draft.stream("parts", (6, 5), np.float32, (np.full((2, 5), i) for i in range(3)))
        draft.facts["windows"] = 3


@pytest.fixture
def store(tmp_path):
    return CaptureStore(tmp_path / "captures")


def files(store):
    return sorted(path.name for path in store.path("kind", KEY).iterdir())


def test_what_was_written_is_read(store):
    make = Maker()
    capture = store.get("kind", KEY, make)
    np.testing.assert_array_equal(capture["values"], make.values)
    np.testing.assert_array_equal(capture["parts"], np.repeat(np.arange(3.0, dtype=np.float32), 10).reshape(6, 5))
    assert capture.facts == {"windows": 3}
    assert isinstance(capture["values"], np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        capture["values"][0] = 1


def test_it_is_made_once(store):
    make = Maker()
    for _ in range(3):
        store.get("kind", KEY, make)
        CaptureStore(store.root).get("kind", dict(reversed(KEY.items())), make)
    assert make.calls == 1


def test_every_part_of_the_key_counts(store):
    make = Maker()
    for kind, key in (("kind", KEY), ("other", KEY), ("kind", {**KEY, "context": 65}), ("kind", {**KEY, "x": ""})):
        store.get(kind, key, make)
    assert make.calls == 4


def damage_truncate(path):
    file = path / "values.npy"
    file.write_bytes(file.read_bytes()[:-1])


def damage_flip(path):
    file = path / "values.npy"
    data = bytearray(file.read_bytes())
    data[-3] ^= 4
    file.write_bytes(bytes(data))


def damage_remove(path):
    (path / "parts.npy").unlink()


def damage_facts(path):
    (path / "capture.json").write_text("{")


def damage_types(path):
    (path / "capture.json").write_text("[]")


def damage_key(path):
    meta = json.loads((path / "capture.json").read_text())
    meta["key"]["model"] = "other"
    (path / "capture.json").write_text(json.dumps(meta))


def damage_all(path):
    shutil.rmtree(path)


DAMAGES = (damage_truncate, damage_flip, damage_remove, damage_facts, damage_types, damage_key, damage_all)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_noticed_and_mended(store, damage):
    store.get("kind", KEY, Maker())
    damage(store.path("kind", KEY))
    again = Maker()
    capture = CaptureStore(store.root).get("kind", KEY, again)
    assert again.calls == 1
    np.testing.assert_array_equal(capture["values"], again.values)


def fail_with(number):
    def make(draft):
        draft.save("values", np.zeros(3))
        raise OSError(number, os.strerror(number))

    return make


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_and_leaves_nothing(store, number):
    with pytest.raises(DiskFullError, match="space"):
        store.get("kind", KEY, fail_with(number))
    assert not [path for path in store.root.iterdir() if path.is_dir()]
    assert store.get("kind", KEY, Maker())["values"].shape == (3, 4, 5)


def test_a_really_full_disk(tmp_path):
    """/dev/full stands in for the disk: the first write fails with ENOSPC."""
    draft = CaptureWriter(tmp_path)
    (tmp_path / "values.npy").symlink_to("/dev/full")
    with pytest.raises(OSError) as caught:  # noqa: PT011
        draft.save("values", np.zeros(100_000))
    assert caught.value.errno == errno.ENOSPC


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="not a directory"):
        CaptureStore(tmp_path / "file" / "captures").get("kind", KEY, Maker())


def test_an_error_while_making_leaves_nothing(store):
    def make(draft):
        draft.save("values", np.zeros(3))
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        store.get("kind", KEY, make)
    assert not [path for path in store.root.iterdir() if path.is_dir()]


def test_parts_must_add_up(tmp_path):
    with pytest.raises(ValueError, match="promised"):
        CaptureWriter(tmp_path).stream("x", (3, 2), np.float32, [np.zeros((2, 2))])


def make_slowly(root, draft):
    with (root / "calls.txt").open("a") as file:
        file.write("x")
    time.sleep(0.3)
    draft.save("values", np.arange(10))


def worker(root, start, out):
    start.wait()
    out.put(int(CaptureStore(root).get("kind", KEY, partial(make_slowly, root))["values"].sum()))


def test_processes_share_one_making(store):
    context = multiprocessing.get_context("fork")
    start, out = context.Event(), context.Queue()
    processes = [context.Process(target=worker, args=(store.root, start, out)) for _ in range(3)]
    for process in processes:
        process.start()
    start.set()
    sums = [out.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sums == [45, 45, 45]
    assert (store.root / "calls.txt").read_text() == "x"


def die_half_way(root):
    def make(draft):
        draft.save("values", np.zeros(3))
        os._exit(1)

    CaptureStore(root).get("kind", KEY, make)


def test_a_maker_that_dies_blocks_nobody(store):
    process = multiprocessing.get_context("fork").Process(target=die_half_way, args=(store.root,))
    process.start()
    process.join()
    assert process.exitcode == 1
    assert store.get("kind", KEY, Maker())["values"].shape == (3, 4, 5)
    assert not list(store.root.glob("*.partial"))
    assert not list(store.root.glob(".*.partial"))


def test_captures_that_nobody_used_for_long_go_when_there_are_too_many(tmp_path):
    store = CaptureStore(tmp_path, limit=2_500)
    paths = []
    for number in range(4):
        store.get("kind", {"number": number}, lambda draft: draft.save("values", np.zeros(200, np.float32)))
        paths.append(store.path("kind", {"number": number}))
    assert all(path.exists() for path in paths)
    old = time.time() - 48 * 3600
    for path in paths[:3]:
        os.utime(path / "capture.json", (old, old))
    used = CaptureStore(tmp_path).get("kind", {"number": 0}, Maker())
    assert used["values"].shape == (200,)
    store.get("kind", {"number": 4}, lambda draft: draft.save("values", np.zeros(200, np.float32)))
    assert [path.exists() for path in paths] == [True, False, False, True]
