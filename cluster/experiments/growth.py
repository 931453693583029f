"""How time and memory of a chain grow with n, from the lines of `jordan-dist bench` on standard input.

jordan-dist bench waveguides --grid 212 424 848 1060 --methods chain > bench.jsonl
python -m cluster.experiments.growth growth.svg < bench.jsonl
"""

import json
import sys

import numpy as np
from matplotlib.figure import Figure


def main() -> None:
    lines = sorted((json.loads(line) for line in sys.stdin), key=lambda line: line["n"])
    n = np.array([line["n"] for line in lines], dtype=float)
    chains = [line["methods"]["chain"] for line in lines]
    seconds = np.array([chain["seconds"]["total"] for chain in chains])
    memory = np.array([chain["peak_memory_bytes"] for chain in chains]) / 1e9
    print("| n | factor, s | solves, s | columns | all, s | processor, s | memory, GB | residual | time ~ n^ | memory ~ n^ |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for i, chain in enumerate(chains):
        phases = " | ".join(f"{chain['seconds'][phase]:.2f}" for phase in ("factor", "solve"))
        slopes = [np.log(y[i] / y[i - 1]) / np.log(n[i] / n[i - 1]) if i else np.nan for y in (seconds, memory)]
        exponents = " | ".join(f"{slope:.2f}" if i else "" for slope in slopes)
        print(
            f"| {n[i]:,.0f} | {phases} | {chain['solves']} | {seconds[i]:.2f} | {chain['seconds']['processor']:.2f} | {memory[i]:.2f} | "
            f"{chain['subspace_residual']:.1e} | {exponents} |"
        )
    if len(sys.argv) > 1:
        draw(sys.argv[1], n, {"time, s": (seconds, n**1.5, "n^1.5"), "memory, GB": (memory, n * np.log2(n), "n log n")})


def draw(path: str, n: np.ndarray, curves: dict[str, tuple[np.ndarray, np.ndarray, str]]) -> None:
    """A panel per quantity, with the law through its first point."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, (label, (y, law, name)) in zip(figure.subplots(1, len(curves)), curves.items(), strict=True):
        axes.loglog(n, y, "o-", label="measured")
        axes.loglog(n, law * y[0] / law[0], "--", label=name)
        axes.set_xlabel("n")
        axes.set_ylabel(label)
        axes.legend()
    figure.savefig(path)


if __name__ == "__main__":
    main()
