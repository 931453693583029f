"""What is shared, split over workers by torch's `fully_shard`: the same meta-model as one process trains, and a part of it on each."""

import dataclasses
import os
import subprocess
import sys

import pytest
from random_population import make_population, spec

from dynamo_dist import InputError, MetaModel, MetaModelConfig
from dynamo_dist.cli import main
from dynamo_dist.data.attractors import ClassIntegrationTask, FlipFlopTask, make_class_integration, make_flip_flop
from dynamo_dist.data.images import DigitsTask, make_digits
from dynamo_dist.metamodel import checkpoint
from dynamo_dist.networks import Convolutional
from dynamo_dist.pipeline import train_meta_model
from dynamo_dist.population import NetworkSpec

FEW = {"base": 8, "meta": 40, "test": 8}
# Without clipping the first moment after one step is a tenth of the gradient.
CONFIG = MetaModelConfig(dimensions=2, hidden=8, embedding=4, batch=6, steps=20, checkpoint_every=10, clip=1e9)


@pytest.fixture(scope="module")
def populations(valence, tmp_path_factory):
    """By kind of input. Workers of the mixed one have different inputs, so each leaves parameters unused that another needs."""
    path = tmp_path_factory.mktemp("populations")
    tasks = {
        "words": make_class_integration(ClassIntegrationTask(classes=2, **FEW)),
        "values": make_flip_flop(FlipFlopTask(bits=1, **FEW)),
    }
    mixed = [spec("words 0", tasks["words"], name="words"), spec("values 0", tasks["values"], name="values")]
    images = make_digits(DigitsTask())
    convolutional = [
        NetworkSpec(
            id=f"cnn {n}", group="cnn", computation="cnn", target=next(iter(images.outputs)), seed=n, samples=1, batch=1,
            architecture=Convolutional(kind="cnn", depth=3, width=4, channels=1, outputs=10),
        )
        for n in range(3)
    ]  # fmt: skip
    seven = [spec(f"gru {n}", valence) for n in range(4)] + [spec(f"rnn {n}", valence, cell="rnn", hidden=9) for n in range(3)]
    return {
        "tokens": make_population(path / "tokens", seven, valence),
        "mixed": make_population(path / "mixed", mixed, tasks),
        "images": make_population(path / "images", convolutional, images),
    }


def tensors_of(out):
    step = checkpoint.newest_verified(out)
    return {name: t.clone() for name, t in {**checkpoint.read_shared(step), **checkpoint.read_private(step)}.items()}


def split_training(population, out, workers, *more, **changed):
    """As `torchrun ... embed --fully-shard`, in float64."""
    settings = {field.name: getattr(CONFIG, field.name) for field in dataclasses.fields(CONFIG)} | changed
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(workers), "-m", "dynamo_dist.cli", "embed",
            str(population.path), "--out", str(out), "--precision", "float64", "--activations", "recompute", "--fully-shard", *more,
            *(f"--set={name}={value}" for name, value in settings.items()),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def whole_training(population, out, **changed):
    config = dataclasses.replace(CONFIG, **changed)
    return train_meta_model(population, out, config=config, precision="float64", activations="recompute")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "workers", "steps"), [("tokens", 2, 20), ("tokens", 3, 1), ("mixed", 2, 20), ("images", 2, 20)])
def test_split_over_workers_is_what_one_process_trains(populations, tmp_path, kind, workers, steps):
    changed = {"steps": steps, "unlike_tasks": "pad" if kind == "mixed" else "refuse"}
    split_training(populations[kind], tmp_path / "split", workers, **changed)
    whole_training(populations[kind], tmp_path / "whole", **changed)
    whole, split = tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "split")
    assert whole.keys() == split.keys()
    for name, tensor in whole.items():
        # After one step the first moments are the gradients; later the parameters are compared.
        if name.startswith("mean.") if steps == 1 else not name.startswith(("mean.", "square.")):
            assert (split[name] - tensor).norm() <= (1e-13 if steps == 1 else 1e-9) * tensor.norm(), name
    assert MetaModel.open(tmp_path / "split").network_ids == populations[kind].network_ids


@pytest.mark.slow
def test_a_split_run_continues_one_that_was_not(populations, tmp_path):
    """Checkpoints do not know of it: half of the steps in one process, the other half on two workers that split what is shared."""
    whole_training(populations["tokens"], tmp_path / "whole")
    split_training(populations["tokens"], tmp_path / "both", 2)
    newest = checkpoint.newest_verified(tmp_path / "both")
    assert newest.name == "step-00000020"
    (newest / "manifest.json").unlink()  # as if it had been killed after step 10
    config = {field.name: getattr(CONFIG, field.name) for field in dataclasses.fields(CONFIG)}
    train_meta_model(populations["tokens"], tmp_path / "both", config=MetaModelConfig(**config), precision="float64", activations="recompute")
    newest = checkpoint.newest_verified(tmp_path / "both")
    (newest / "manifest.json").unlink()
    split_training(populations["tokens"], tmp_path / "both", 2, "--resume")
    whole, both = tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "both")
    for name, tensor in whole.items():
        if not name.startswith(("mean.", "square.")):
            assert (both[name] - tensor).norm() <= 1e-9 * tensor.norm(), name


PART = """
import sys, torch, torch.distributed as distributed
from pathlib import Path
from dynamo_dist.metamodel import MetaModelConfig, splitting
from dynamo_dist.metamodel.interface import Interface
from dynamo_dist.metamodel.shard import make_dynamics
distributed.init_process_group("gloo")
dynamics = make_dynamics(Interface(vocabulary=8, outputs=2), MetaModelConfig(hidden=8), torch.Generator().manual_seed(0), torch.float64)
before = {name: p.detach().clone() for name, p in dynamics.named_parameters()}
splitting.split_(dynamics, torch.device("cpu"), 2)
own = sum(splitting.own_part(p).numel() for p in dynamics.parameters())
assert all(torch.equal(splitting.whole(p), before[name]) for name, p in dynamics.named_parameters())
# A file each: lines that two processes print at once can run into each other.
Path(sys.argv[1], f"{distributed.get_rank()}.txt").write_text(str(own / sum(p.numel() for p in before.values())))
distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_each_of_two_workers_holds_half(tmp_path):
    script = tmp_path / "part.py"
    script.write_text(PART)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", script, tmp_path],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [float((tmp_path / f"{rank}.txt").read_text()) for rank in range(2)] == pytest.approx([0.5, 0.5])


def test_one_worker_has_nobody_to_split_with(populations, tmp_path, capsys):
    message = "fully_shard splits what is shared over workers, and there is only one: leave it out, or use more workers"
    for workers in (0, 1):
        with pytest.raises(InputError, match=message):
            train_meta_model(populations["tokens"], tmp_path / "out", config=CONFIG, workers=workers, fully_shard=True)
    arguments = ["embed", str(populations["tokens"].path), "--out", str(tmp_path / "out"), "--workers", "0", "--fully-shard"]
    assert main(arguments) == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
