"""How theta enters the meta-model: concat, lowrank and film on the populations of finished runs, with several seeds each.

    python -m cluster.experiments.conditioning runs/valence runs/attractors [--seeds 3] [--steps 1500] [--workers 0]

Every meta-model has the configuration of the run but for the conditioning, the seed and, where given, the number of steps. Scores are
medians over the networks of the run, on the test parts.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import torch

from cluster.experiments.timing import processor
from dynamo_dist import analysis
from dynamo_dist.allocator import keep_memory
from dynamo_dist.analysis.emulation import emulation
from dynamo_dist.commit import read_lines
from dynamo_dist.metamodel import folder
from dynamo_dist.metamodel.metamodel import MetaModel
from dynamo_dist.pipeline import train_meta_model
from dynamo_dist.population import Population

CONDITIONINGS = ("concat", "lowrank", "film")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m cluster.experiments.conditioning", description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs of dynamo-dist run")
    parser.add_argument("--seeds", type=int, default=3, help="meta-models of each conditioning; default 3")
    parser.add_argument("--steps", type=int, help="steps of each; default: as many as in the run")
    parser.add_argument("--workers", type=int, default=0, help="Ray workers of each; default 0, this process")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    print(f"torch {torch.__version__}, {processor()}", flush=True)
    print("| run | conditioning | hidden R^2 | lowest | agreement | disputed | adjusted Rand | ms a step |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for run in arguments.runs:
        population = Population.open(run / "population")
        config = folder.config_of(run / "meta-0")
        config = dataclasses.replace(config, steps=arguments.steps or config.steps)
        for conditioning in CONDITIONINGS:
            rows = []
            for seed in range(arguments.seeds):
                with tempfile.TemporaryDirectory() as out:
                    meta = train_meta_model(
                        population, out, config=dataclasses.replace(config, conditioning=conditioning, seed=seed), workers=arguments.workers
                    )
                    rows.append(scores(meta))
            cells = (f"{np.mean(same):.3f} ({min(same):.3f} to {max(same):.3f})" for same in zip(*rows, strict=True))
            print(f"| {run.name} | {conditioning} | {' | '.join(cells)} |", flush=True)


def scores(meta: MetaModel) -> tuple[float, ...]:
    """Of one meta-model, in the order of the table."""
    found = emulation(meta)
    first, last = (read_lines(meta.path / folder.PROGRESS)[place] for place in (0, -1))
    disputed = found.disputed_agreement
    return (
        float(np.median(found.hidden_r2)),
        float(found.hidden_r2.min()),
        float(np.median(found.agreement)),
        float(np.nanmedian(disputed)),
        analysis.cluster(meta)["adjusted_rand"],
        1e3 * (last["seconds"] - first["seconds"]) / max(1, last["step"] - first["step"]),
    )


if __name__ == "__main__":
    main()
