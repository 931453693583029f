"""What goes wrong in long runs, done on purpose. Every network must come out exactly once, equal to the undisturbed run."""

import dataclasses
import functools
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from dynamo_dist import InputError, Population
from dynamo_dist.commit import append_line, read_lines
from dynamo_dist.jobs import JobFailed
from dynamo_dist.population.scheduling import train_remaining
from dynamo_dist.population.training import ChunkTraining
from dynamo_dist.population.work import train_and_commit
from dynamo_dist.runtime import LocalRuntime, open_runtime

COMMAND = str(Path(sys.executable).parent / "dynamo-dist")
POISON = "leaky gru #1"


def weights(path):
    """Tensors of every network by id."""
    found = {}
    for stack in Population.open(path).stacks():
        for row, id in enumerate(stack.ids):
            assert id not in found
            found[id] = {name: p[row] for name, p in stack.networks.tensors.items()}
    return found


def assert_same(path, reference, *, but=(), bitwise=True):
    """Every network exactly once, with the reference's parameters, except those named."""
    ours, theirs = weights(path), weights(reference)
    assert ours.keys() == theirs.keys()
    lines = read_lines(Path(path) / "journal.jsonl")
    assert sum(line["networks"] for line in lines) == len(ours)
    for id in ours.keys() - set(but):
        for name, p in theirs[id].items():
            if bitwise:
                assert torch.equal(ours[id][name], p), (id, name)
            else:
                # Another stack may take another matrix kernel: rounding of float32 over some fifty steps of Adam.
                assert (ours[id][name] - p).norm() <= 1e-3 * p.norm(), (id, name)


def make_specs(data):
    import small_population  # here: workers import this module by its path, and not its neighbours

    return small_population.make_specs(data)


def fresh(path, valence):
    return Population.create(path, make_specs(valence), valence)


# Work of a worker, disturbed.


def _struck_at(iteration, blow, marker, path, chunk):
    """Its process gets a signal at a training step, the first time: SIGKILL, of which it dies, or SIGSTOP, after which it is there and does
    nothing more. The marker tells which one it was."""
    step = ChunkTraining.step

    def dangerous(self, number):
        if number == iteration and not Path(marker).exists():
            Path(marker).write_text(str(os.getpid()))
            os.kill(os.getpid(), blow)
        return step(self, number)

    ChunkTraining.step = dangerous
    try:
        return train_and_commit(path, chunk)
    finally:
        ChunkTraining.step = step


def _tells_its_process(folder, path, chunk):
    (Path(folder) / str(os.getpid())).touch()
    return train_and_commit(path, chunk)


def _tells_when(file, path, chunk):
    """Dies when it is called for the first time; writes when that was, and when it is called again."""
    with open(file, "a") as times:
        times.write(f"{time.time()}\n")
    if len(Path(file).read_text().splitlines()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return train_and_commit(path, chunk)


def _exits_with(poison, path, chunk):
    """The process ends whenever the poisonous network is in the chunk."""
    if poison in [spec.id for spec in Population(path).chunk_specs(chunk)]:
        os._exit(3)
    return train_and_commit(path, chunk)


def _raises_with(poison, path, chunk):
    if poison in [spec.id for spec in Population(path).chunk_specs(chunk)]:
        raise ZeroDivisionError("poison")
    return train_and_commit(path, chunk)


def _too_large_above(networks, path, chunk):
    if chunk.networks > networks:
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9e18 bytes"
        )
    return train_and_commit(path, chunk)


def _always_raises(path, chunk):
    raise ZeroDivisionError("everything is wrong")


def test_a_network_that_raises_is_found_recorded_and_named(valence, population, tmp_path, capsys):
    store = fresh(tmp_path / "p", valence)
    train_remaining(store, LocalRuntime(), work=functools.partial(_raises_with, POISON))
    assert_same(store.path, population.path, but=[POISON], bitwise=False)
    row = next(row for row in store.table().to_pylist() if row["id"] == POISON)
    assert row["failure"] == "error: ZeroDivisionError: poison" and row["accuracy"] is None and row["steps"] == 0
    assert store.table()["failure"].null_count == len(store) - 1
    messages = capsys.readouterr().err
    assert f"networks {POISON!r}, ... (1) cannot be trained (error: ZeroDivisionError: poison); recorded as failed" in messages


def test_out_of_memory_halves_the_chunk(valence, population, tmp_path, capsys):
    store = fresh(tmp_path / "p", valence)
    train_remaining(store, LocalRuntime(), work=functools.partial(_too_large_above, 2))
    assert_same(store.path, population.path, bitwise=False)
    assert max(chunk.networks for chunk in store.committed().values()) == 2
    assert "out of memory: networks 'perfect gru #0', ... (4) are tried again in two halves" in capsys.readouterr().err


def test_when_everything_fails_the_run_ends_and_says_why(valence, tmp_path):
    store = fresh(tmp_path / "p", valence)
    with pytest.raises(JobFailed, match="the first 3 networks failed, the last with error: ZeroDivisionError: everything is wrong"):
        train_remaining(store, LocalRuntime(), work=_always_raises)


def test_a_network_that_turns_nan_is_recorded_with_step_and_seed(valence, population, tmp_path):
    specs = [dataclasses.replace(spec, learning_rate=1e38) if spec.id == POISON else spec for spec in make_specs(valence)]
    store = Population.create(tmp_path / "p", specs, valence)
    train_remaining(store, LocalRuntime())
    assert_same(store.path, population.path, but=[POISON])
    row = next(row for row in store.table().to_pylist() if row["id"] == POISON)
    assert row["failure"] == f"gradient not finite at step {row['failed_at']}, seed {row['seed']}" and row["failed_at"] >= 0


def test_a_full_disk_stops_the_run_and_nothing_is_lost(valence, population, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        store = fresh(disk / "p", valence)
        first = store.remaining()[0]
        store.record(train_and_commit(str(store.path), first), first)
        filler = disk / "filler"
        filler.write_bytes(b"0" * (shutil.disk_usage(disk).free - 8192))
        with pytest.raises(InputError, match=r"cannot be written .*No space left.*: make room, and continue with --resume"):
            train_remaining(Population(store.path), LocalRuntime())
        filler.unlink()
        train_remaining(Population(store.path), LocalRuntime())
        assert_same(store.path, population.path)
        assert not list(store.path.glob("chunks/.*.tmp"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_full_disk_under_the_journal_loses_nothing(valence, population, tmp_path):
    store = fresh(tmp_path / "p", valence)

    def fills_up(path, chunk):
        name = train_and_commit(path, chunk)
        (store.path / "journal.jsonl").symlink_to("/dev/full")
        return name

    with pytest.raises(InputError, match=r"p cannot be written .*No space left.*: make room, and continue with --resume"):
        train_remaining(store, LocalRuntime(), work=fills_up)
    (store.path / "journal.jsonl").unlink()
    (committed,) = (store.path / "chunks").iterdir()  # what was trained is there, though nobody noted it
    before = committed.stat().st_ino
    train_remaining(Population(store.path), LocalRuntime())
    assert committed.stat().st_ino == before
    assert_same(store.path, population.path)


def _append(path, writer, count):
    for number in range(count):
        append_line(path, {"writer": writer, "number": number})


def test_many_processes_write_one_journal(tmp_path):
    """10,000 lines by 20 processes: each line is there once, and whole."""
    journal = tmp_path / "journal.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_append, args=(journal, writer, 500)) for writer in range(20)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=300)
        assert writer.exitcode == 0
    lines = read_lines(journal)
    assert sorted((line["writer"], line["number"]) for line in lines) == [(w, n) for w in range(20) for n in range(500)]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_killed_and_exiting_workers_on_ray(valence, population, tmp_path, capsys):
    with open_runtime(2) as runtime:
        for iteration in (2, 4):
            store = fresh(tmp_path / f"kill-{iteration}", valence)
            marker = str(tmp_path / f"marker-{iteration}")
            train_remaining(store, runtime, work=functools.partial(_struck_at, iteration, signal.SIGKILL, marker))
            assert_same(store.path, population.path)
            assert (tmp_path / f"marker-{iteration}").exists()
            told = capsys.readouterr().err
            assert " died; networks " in told and "are tried again (2 of 3)" in told
        store = fresh(tmp_path / "exit", valence)
        train_remaining(store, runtime, work=functools.partial(_exits_with, POISON))
        assert_same(store.path, population.path, but=[POISON], bitwise=False)
        row = next(row for row in store.table().to_pylist() if row["id"] == POISON)
        assert row["failure"].startswith("lost worker: ")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_hung_worker_is_named_and_ended_and_a_slow_one_is_not(valence, population, tmp_path, capsys, monkeypatch):
    from dynamo_dist.runtime import ray_runtime

    monkeypatch.setattr(ray_runtime, "SILENCE", 30.0)
    monkeypatch.setattr(ray_runtime, "LOOK", 0.5)
    with open_runtime(2) as runtime:
        store, marker = fresh(tmp_path / "hung", valence), tmp_path / "marker"
        train_remaining(store, runtime, work=functools.partial(_struck_at, 3, signal.SIGSTOP, str(marker)))
        assert_same(store.path, population.path)
        hung = marker.read_text()
        named = f"the worker {hung} on .* showed no sign of life for 30 s and was ended; networks '.*', ... .* are tried again .2 of 3."
        assert re.search(named, capsys.readouterr().err)
        deadline = time.monotonic() + 60
        while Path(f"/proc/{hung}").exists():  # Ray asks it to end, and kills it some seconds later
            assert time.monotonic() < deadline
            time.sleep(0.1)

        # One worker stands still for 9/10 of the time.
        store, seen, over = fresh(tmp_path / "slow", valence), tmp_path / "seen", threading.Event()
        seen.mkdir()

        def slow_down():
            while not over.wait(0.1):
                for process in sorted(seen.iterdir())[:1]:
                    os.kill(int(process.name), signal.SIGSTOP)
                    over.wait(0.9)
                    os.kill(int(process.name), signal.SIGCONT)

        thread = threading.Thread(target=slow_down)
        thread.start()
        try:
            train_remaining(store, runtime, work=functools.partial(_tells_its_process, str(seen)))
        finally:
            over.set()
            thread.join()
        assert_same(store.path, population.path)
        # None was replaced. (The fresh one for the hung one may come too late for any chunk.)
        assert 1 <= len(list(seen.iterdir())) <= 2 and "tried again" not in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_dead_worker_is_replaced_before_anything_else_runs(valence, population, tmp_path, record_testsuite_property):
    """The only worker dies: how long until a fresh one does its chunk is recorded."""
    store, times = fresh(tmp_path / "p", valence), tmp_path / "times"
    with open_runtime(1) as runtime:
        train_remaining(store, runtime, work=functools.partial(_tells_when, str(times)))
    assert_same(store.path, population.path)
    died, again, *_ = map(float, times.read_text().split())
    record_testsuite_property("seconds until a fresh worker did the chunk of a dead one", f"{again - died:.1f}")


@pytest.mark.slow
def test_a_killed_command_is_resumed_to_the_same_population(tmp_path):
    """SIGKILL of the driver after the first commit; --resume gives, bit for bit, what an undisturbed run gives."""
    arguments = [COMMAND, "run", "valence", "--size", "tiny", "--workers", "2"]
    out = tmp_path / "out"
    with subprocess.Popen([*arguments, "--out", str(out)], stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        for line in process.stderr:
            if "trained and committed" in line:
                break
        os.kill(process.pid, signal.SIGKILL)
        process.stderr.close()
    recorded = len(read_lines(out / "population" / "journal.jsonl"))
    assert recorded >= 1
    time.sleep(1)  # the workers end with the command
    for folder, extra in ((out, ["--resume"]), (tmp_path / "calm", [])):
        done = subprocess.run([*arguments, "--out", str(folder), *extra], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    assert_same(out / "population", tmp_path / "calm" / "population")
    ours, calm = (json.loads((folder / "result.json").read_text()) for folder in (out, tmp_path / "calm"))
    assert ours["population"] == calm["population"] and ours["meta"] == calm["meta"]


def test_a_torn_journal_is_read_to_its_last_whole_line(population, valence, tmp_path):
    shutil.copytree(population.path, tmp_path / "p")
    journal = tmp_path / "p" / "journal.jsonl"
    content = journal.read_bytes()
    journal.write_bytes(content[:-10])  # killed while it wrote the last line
    store = Population(tmp_path / "p")
    assert sum(chunk.networks for chunk in store.remaining()) > 0
    train_remaining(store, LocalRuntime())
    assert_same(store.path, population.path)
