"""Training of a meta-model, killed on purpose. What is resumed must end, bit for bit, where the undisturbed run ends."""

import dataclasses
import functools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest
import torch

from dynamo_dist import MetaModel, MetaModelConfig
from dynamo_dist.commit import read_lines
from dynamo_dist.metamodel import checkpoint, folder, training
from dynamo_dist.metamodel.shard import Alone
from dynamo_dist.metamodel.training import TrainingJob, train_shard
from dynamo_dist.pipeline import train_meta_model

CONFIG = MetaModelConfig(dimensions=3, hidden=8, embedding=4, batch=6, steps=60, checkpoint_every=10, held_out=0.2)
# The commit that is disturbed: the fourth, so that there is an older checkpoint to remove.
AT = 40
# A server that has imported what the work needs, and has computed nothing yet: its forks are at work in no time, and sound.
_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["dynamo_dist.pipeline"])


def kill_myself(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


# Where the process dies, each set up in the process itself. They return what `after_step` is.


def within_a_step():
    return lambda step: kill_myself() if step == AT - 3 else None


def within_a_line_of_the_record():
    def half(path, line):
        if line["step"] == AT:
            with open(path, "a") as file:
                file.write(json.dumps(line)[:20])
                file.flush()
            kill_myself()
        append_line(path, line)

    append_line, training.append_line = training.append_line, half


def before_any_file():
    begin = checkpoint.begin

    def begin_and_die(path, step):
        temporary = begin(path, step)
        if step == AT:
            kill_myself()
        return temporary

    checkpoint.begin = begin_and_die


def between_files():
    save_shared = checkpoint.save_shared

    def save_and_die(folder, rank, shard):
        save_shared(folder, rank, shard)
        if f"{AT:08d}" in folder.name:
            kill_myself()

    checkpoint.save_shared = save_and_die


def _at_rename(when):
    rename = os.rename

    def dangerous(source, target):
        ours = str(target).endswith(f"/step-{AT:08d}")
        if ours and when == "before":
            kill_myself()
        rename(source, target)
        if ours:
            kill_myself()

    os.rename = dangerous


def before_the_rename():
    _at_rename("before")


def after_the_rename():
    _at_rename("after")


def within_the_removal_of_an_old_checkpoint():
    removal = checkpoint.shutil.rmtree

    def half(folder, **options):
        if f"{AT - 20:08d}." in str(folder) and folder.exists():  # under the name of what is no checkpoint any more
            next(folder.glob("*.safetensors")).unlink()
            kill_myself()
        removal(folder, **options)

    checkpoint.shutil.rmtree = half


def after_everything():
    return lambda step: kill_myself() if step == AT else None


WAYS = {
    way.__name__: way
    for way in (
        within_a_step, within_a_line_of_the_record, before_any_file, between_files, before_the_rename, after_the_rename,
        within_the_removal_of_an_old_checkpoint, after_everything,
    )
}  # fmt: skip


def train_and_die(way, job):
    torch.set_num_threads(1)
    train_shard(job, group=Alone(), after_step=way() or (lambda step: None))


def prepared(population, out, precision, config=CONFIG):
    folder.prepare(out, population, config)
    return TrainingJob(population=str(population.path), out=str(out), config=config, precision=precision, activations="recompute")


def tensors_of(out):
    step = checkpoint.step_path(out, CONFIG.steps)
    return {**checkpoint.read_shared(step), **checkpoint.read_private(step)}


def record_of(out):
    """The record without what a clock says, and the table agrees with it."""
    lines = read_lines(out / folder.PROGRESS)
    for line, row in zip(lines, pq.read_table(out / folder.METRICS).to_pylist(), strict=True):
        assert row == {**dict.fromkeys(row), **line}
    return [{name: value for name, value in line.items() if name not in ("seconds", "left")} for line in lines]


def assert_same(out, calm):
    ours, theirs = tensors_of(out), tensors_of(calm)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name
    assert record_of(out) == record_of(calm)
    assert [line["step"] for line in record_of(out)] == [10, 20, 25, 30, 40, 50, 60]
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in calm.iterdir())


@pytest.fixture(scope="module")
def calm(population, tmp_path_factory):
    """The undisturbed run of a precision."""
    torch.set_num_threads(1)

    @functools.cache
    def run(precision):
        out = tmp_path_factory.mktemp(precision) / "calm"
        train_shard(prepared(population, out, precision), group=Alone())
        return out

    return run


@pytest.mark.parametrize(
    ("way", "precision"), [*((way, "float64") for way in WAYS), ("within_a_step", "float32"), ("before_the_rename", "float32")]
)
def test_a_killed_training_resumes_to_the_same_bits(population, calm, tmp_path, way, precision):
    reference = calm(precision)
    job = prepared(population, tmp_path / "out", precision)
    process = _server.Process(target=train_and_die, args=(WAYS[way], job))
    process.start()
    process.join(timeout=60)
    assert process.exitcode == -signal.SIGKILL
    committed = way in ("after_the_rename", "within_the_removal_of_an_old_checkpoint", "after_everything")
    assert checkpoint.committed_steps(tmp_path / "out")[-1] == (AT if committed else AT - 10)
    train_shard(job, group=Alone())
    assert_same(tmp_path / "out", reference)


@pytest.mark.parametrize("way", ["before_the_rename", "after_the_rename"])
def test_killed_at_the_last_commit(population, calm, tmp_path, way):
    precision, reference, out = "float64", calm("float64"), tmp_path / "out"
    process = _server.Process(target=functools.partial(_at_the_end, WAYS[way], prepared(population, out, precision)))
    process.start()
    process.join(timeout=60)
    assert process.exitcode == -signal.SIGKILL and len(list(out.glob(".step-*.tmp"))) == (way == "before_the_rename")
    meta = train_meta_model(population, out, config=CONFIG, precision=precision, activations="recompute")
    assert not list(out.glob(".*"))
    assert record_of(out) == record_of(reference)
    ours, theirs = tensors_of(out), tensors_of(reference)
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    assert (meta.embedding == MetaModel.open(reference).embedding).all()


def _at_the_end(way, job):
    global AT
    AT = CONFIG.steps
    train_and_die(way, job)


def test_a_killed_command_resumes_to_the_same_bits(population, tmp_path):
    settings = {**dataclasses.asdict(CONFIG), "steps": 400}
    pairs = [f"--set={name}={value}" for name, value in settings.items()]
    arguments = [sys.executable, "-m", "dynamo_dist.cli", "embed", str(population.path), "--workers", "0", "--activations", "recompute"]
    out, calm = tmp_path / "out", tmp_path / "calm"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([*arguments, *pairs, "--out", str(out)], env=environment, stderr=subprocess.DEVNULL) as process:
        while not checkpoint.committed_steps(out) and process.poll() is None:
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL and checkpoint.committed_steps(out)[-1] < 400
    done = subprocess.run(
        [*arguments, *pairs, "--out", str(out), "--resume"], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and done.stdout.splitlines() == [str(out / "result.json")], done.stderr
    torch.set_num_threads(1)
    train_meta_model(population, calm, config=MetaModelConfig(**settings), activations="recompute")
    step = checkpoint.step_path(out, 400)
    for read in (checkpoint.read_shared, checkpoint.read_private):
        ours, theirs = read(step), read(checkpoint.step_path(calm, 400))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    assert record_of(out) == record_of(calm) and not list(out.glob(".*"))


# ---- Ray Train -------------------------------------------------------------------------------------------------------------

# Steps after which the worker of a rank dies: of one that commits, and of one that does not.
DEATHS = {1: 25, 0: 45}


def _dying(marks, arguments):
    """What a Ray Train worker does; some die of SIGKILL, once each. `marks`: a folder for the times at which things happen."""
    from dynamo_dist.runtime import ray_runtime

    rank, dead = int(os.environ["RANK"]), [other for other in DEATHS if (marks / f"{other} dies").exists()]

    def after_step(done):
        if rank not in dead and done == DEATHS[rank] and len(dead) == list(DEATHS).index(rank):
            (marks / f"{rank} dies").write_text(str(time.time()))
            kill_myself()
        back = marks / f"{dead[-1]} is replaced" if dead else None
        if rank == 0 and back and not back.exists():
            back.write_text(json.dumps([done, time.time()]))

    ray_runtime.train_shard = functools.partial(train_shard, after_step=after_step)
    ray_runtime._train_worker(arguments)


class _HopelessTrainer:
    def __init__(self, *_, **__): ...

    def fit(self):
        from ray.train import WorkerGroupError

        raise WorkerGroupError("[Rank 0]: Traceback ...", {0: RuntimeError("Traceback ...\nOSError: No space left on device")})


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Ray's own warnings are not ours to fix
def test_lost_ray_train_workers_are_replaced(population, tmp_path, monkeypatch, record_testsuite_property):
    from test_metamodel import Threads  # here: workers import this module by its path, and not its neighbours

    from dynamo_dist.jobs import JobFailed
    from dynamo_dist.runtime import open_runtime, ray_runtime

    # Threads are the undisturbed run: a sum of two is the same in either order.
    calm, job = (prepared(population, tmp_path / name, "float64") for name in ("calm", "out"))
    Threads(2).run(lambda group: train_shard(calm, group=group))
    with open_runtime(2) as runtime:
        with monkeypatch.context() as patch:
            patch.setattr(ray_runtime, "_train_worker", functools.partial(_dying, tmp_path))
            runtime.train([job])
        for rank, step in DEATHS.items():
            done, when = json.loads((tmp_path / f"{rank} is replaced").read_text())
            assert done == step // 10 * 10 + 1  # from the last checkpoint, not from the start
            seconds = when - float((tmp_path / f"{rank} dies").read_text())
            record_testsuite_property(f"seconds until training went on without rank {rank}", f"{seconds:.1f}")
        assert_same(tmp_path / "out", tmp_path / "calm")

        monkeypatch.setattr(ray_runtime, "TorchTrainer", _HopelessTrainer)
        with pytest.raises(JobFailed, match=r"failed 3 times .*; the last reason: OSError: No space left on device; continue with --resume"):
            runtime.train([job])
        assert not (tmp_path / "out" / ".ray-train").exists()
