"""A large population on one CUDA GPU, against a loop of cuDNN's GRUs.

    python -m cluster.experiments.population_on_gpu [--networks 10000] [--steps 1000]

GRU-64 on word valence (T = 50, B = 64). The stack trains all its chunks; the loop trains a few networks for a few steps, and the ratio
is of the time per network and step.
"""

import argparse
import time

import torch
from torch.nn import functional

from dynamo_dist.data.valence import ValenceTask, make_valence
from dynamo_dist.networks import stack_class
from dynamo_dist.population.groups import Group, specs_of
from dynamo_dist.population.plan import CHUNK_NETWORKS
from dynamo_dist.population.specs import NetworkSpec
from dynamo_dist.population.training import ChunkTraining

BATCH, TIME = 64, 50
LOOP_NETWORKS, LOOP_STEPS = 8, 50


def loop_seconds(specs: list[NetworkSpec], training: ChunkTraining) -> float:
    """Seconds per network and step of torch's own layers, one network after the other."""
    architecture, device = specs[0].architecture, training.device
    modules = [stack_class(architecture).initial(architecture, [spec.seed]).network(0).to(device) for spec in specs]
    optimisers = [torch.optim.Adam(module.parameters(), fused=device.type == "cuda") for module in modules]
    tokens_MBT, lengths_MB, target_MB = training.gather(training.order_MSB[:, 0])
    assert lengths_MB is not None, "its sequences have lengths"
    seconds = 0.0
    for step in range(-3, LOOP_STEPS):  # three to warm up
        if step == 0:
            _wait(device)
            seconds = time.perf_counter()
        for m, (module, optimiser) in enumerate(zip(modules, optimisers, strict=True)):
            optimiser.zero_grad()
            _, logits_BC = module(tokens_MBT[m], lengths_MB[m])
            functional.cross_entropy(logits_BC, target_MB[m]).backward()
            optimiser.step()
    _wait(device)
    return (time.perf_counter() - seconds) / (LOOP_STEPS * len(specs))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m cluster.experiments.population_on_gpu", description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=1_000)
    parser.add_argument("--device", default="cuda", help="cpu only to try the script; default cuda")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    data = make_valence(ValenceTask(base=BATCH * arguments.steps, meta=64, test=64, shortest=TIME - 10, longest=TIME))
    group = Group(
        name="gru-64", networks=arguments.networks, target="perfect", training={"batch": BATCH},
        architecture={"family": "recurrent", "cell": "gru", "hidden": 64},
    )  # fmt: skip
    specs = list(specs_of([group], data))
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{len(specs)} GRU-64, T = {TIME}, B = {BATCH}, {arguments.steps} steps; torch {torch.__version__}, {name}", flush=True)
    began = time.perf_counter()
    for first in range(0, len(specs), CHUNK_NETWORKS):
        training = ChunkTraining(specs[first : first + CHUNK_NETWORKS], data.base, data.outputs["perfect"], device=device)
        for step in range(arguments.steps):
            training.step(step)
        _wait(device)
        print(f"{first + len(training.specs)} networks after {time.perf_counter() - began:.1f} s", flush=True)
    seconds = time.perf_counter() - began
    few = specs[:LOOP_NETWORKS]
    loop = loop_seconds(few, ChunkTraining(few, data.base, data.outputs["perfect"], device=device))
    print(
        f"stack {seconds:.1f} s in all; the loop of torch's layers takes {loop * len(specs) * arguments.steps / seconds:.1f} times as long"
    )


if __name__ == "__main__":
    main()
