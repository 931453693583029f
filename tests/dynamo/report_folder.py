"""The folder of a run as its files say it, made up: as many networks as wanted, every analysis, and names that are no plain text."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

GROUPS = ("gru <b>bold</b>", 'rnn "quoted" & <script>alert(1)</script>', "</script><img src=x onerror=alert(2)> λ")
COMPUTATIONS = ("perfect", "leaky", "leaky")
DIMENSIONS = 4
# Kind, stability and place of the fixed and slow points of every network.
POINTS = (("fixed", True, -1.0), ("fixed", True, 1.0), ("fixed", False, 0.0), ("slow", True, 0.5))
# Time constants of the networks and of the meta-model by computation (None: nothing is forgotten), and steps of a kernel.
MEMORY, LAGS = {"perfect": (None, 40.0), "leaky": (4.0, 5.0)}, 8
# Every third network is the one before it some epochs later.
EPOCHS = (1, 2, 4, 8)
# Step of the path from which there are two stable points and not one.
FORK = 6


def write_run(folder, networks):
    """Write the folder of a run of this many networks; returns their table, a dictionary of columns."""
    rng = np.random.default_rng(0)
    (folder / "meta-0").mkdir(parents=True)
    (folder / "control").mkdir()
    number = np.arange(networks) % len(GROUPS)
    theta = rng.normal(size=(networks, DIMENSIONS)) * 0.4 + 2 * np.eye(len(GROUPS), DIMENSIONS)[number]
    score, agreement = rng.uniform(0.9, 1, networks), rng.uniform(0.8, 1, networks)
    table = {
        "id": [f"{GROUPS[own]} #{place}" for place, own in enumerate(number)],
        "group": [GROUPS[own] for own in number],
        "computation": [COMPUTATIONS[own] for own in number],
        "architecture": [("gru-32", "rnn-48", "rnn-48")[own] for own in number],
        "seed": list(range(networks)),
        "batch": [32] * networks,
        "curve": [(np.exp(-np.arange(8.0)) + 0.01 * own).tolist() for own in number],
        "theta": theta.tolist(),
        "score": score.tolist(),
        "meta_score": (score - 0.01).tolist(),
        "hidden_r2": rng.uniform(0.9, 1, networks).tolist(),
        "agreement": agreement.tolist(),
        "disputed_agreement": agreement.tolist(),
        "control_hidden_r2": rng.uniform(0.8, 0.9, networks).tolist(),
        "control_agreement": (agreement - 0.1).tolist(),
        "control_disputed_agreement": (agreement - 0.4).tolist(),
    }
    pq.write_table(pa.table(table), folder / "networks.parquet")
    (folder / "result.json").write_text(json.dumps(_result(networks)))
    for name in ("meta-0", "control"):
        (folder / name / "meta.json").write_text("{}")
        lines = [{"step": step, "loss": 1 / step, "hidden": 0.5 / step, "output": 0.5 / step} for step in range(25, 500, 25)]
        lines[-1]["held_out_loss"] = 0.01
        (folder / name / "progress.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name, tables in _analyses(table, theta, rng).items():
        (folder / "analysis" / name).mkdir(parents=True)
        for file, rows in tables.items():
            pq.write_table(pa.table(rows), folder / "analysis" / name / f"{file}.parquet")
    return table


def _result(networks):
    emulation = {
        "hidden_r2_min": 0.9, "hidden_r2_median": 0.95, "agreement_min": 0.8, "agreement_median": 0.9, "disputed_agreement_median": 0.9,
        "disputed_share": 0.1, "output_kl_median": 0.1,
    }  # fmt: skip
    clusters = {"adjusted_rand": 1.0, "adjusted_rand_architecture": 0.5}
    return {
        "recipe": "mine",
        "title": "Title with <i>tags</i> & 'quotes'",
        "population": {"networks": networks, "failed": 0, "accuracy": {name: {"mean": 0.95, "sd": 0.01} for name in GROUPS}, "test_inputs": 1000},
        "meta": {**emulation, "accuracy": {name: {"mean": 0.94, "sd": 0.01} for name in GROUPS}, "config": {}},
        "control": emulation,
        "clustering": clusters,
        "seeds": [{**emulation, **clusters}],
        "averaging": {
            "within": {name: 0.91 + 0.01 * place for place, name in enumerate(GROUPS)},
            "across": {f"{GROUPS[0]} + {GROUPS[1]}": 0.8765},
            "random_theta": {"label": {"mean": 0.5, "sd": 0.1, "max": 0.7}},
        },
        "versions": {"python": "3"},
        "seconds": {"population": 1.0, "total": 2.0},
    }  # fmt: skip


def _analyses(table, theta, rng):
    ids = table["id"][:12]
    count = len(ids)
    measures = {"measure": ["theta", "cka"], "networks": [count] * 2, "p_value": [0.001, 0.5]}
    for name in ("silhouette", "adjusted_rand", "nearest_neighbour"):
        measures |= {name: [0.75, 0.25], f"{name}_sd": [0.0625, None]}
    coordinates = {
        "measure": ["theta"] * count + ["cka"] * count, "meta": [0] * count + [None] * count, "id": ids * 2,
        "computation": table["computation"][:count] * 2, "set": [0] * 2 * count, "x": theta[:count, 0].tolist() * 2, "y": theta[:count, 1].tolist() * 2,
    }  # fmt: skip
    u, v = (axis.ravel() for axis in np.meshgrid(np.linspace(-1, 1, 5), np.linspace(-2, 2, 5), indexing="ij"))
    landscape = {"task": ["label"] * 25, "u": u, "v": v, "test": 1 - u**2 / 4 - v**2 / 8, "labelled": 1 - u**2, "best": (u == 0) & (v == 0)}
    circles = {"task": ["label"] * count, "id": ids, "group": table["group"][:count], "u": theta[:count, 0], "v": theta[:count, 1]}
    circles |= {name: [0.9] * count for name in ("base", "meta", "projected")}
    points = [
        {
            "id": id, "which": which, "input": "zero", "kind": kind, "stable": stable, "unstable_directions": int(not stable), "speed": 0.1,
            "distance": 0.2, **{f"time_constant_{k}": 10.0 / k for k in (1, 2, 3)}, **{f"component_{k}": x / k for k in (1, 2, 3)},
        }
        for id in ids for which in ("meta", "base") for kind, stable, x in POINTS
    ]  # fmt: skip
    trajectories = [
        {"id": id, "which": which, "trajectory": 0, "step": step, **{f"component_{k}": float(np.sin(step / k)) for k in (1, 2, 3)}}
        for id in ids for which in ("meta", "base") for step in range(20)
    ]  # fmt: skip
    path = [
        {
            "step": step, "at": step / 10, "branch": 0, "stable": True, "unstable_directions": 0,
            **{f"time_constant_{k}": 5.0 for k in (1, 2, 3)}, **{f"component_{k}": x for k in (1, 2, 3)},
        }
        for step in range(11) for x in ((-1.0, 1.0) if step >= FORK else (0.0,))
    ]  # fmt: skip
    lag = np.arange(LAGS)
    rates = np.array([[0 if time is None else 1 / time for time in MEMORY[name]] for name in table["computation"][:count]])
    memory = {"id": ids, "computation": table["computation"][:count]}
    for side, name in enumerate(("base", "meta")):
        memory |= {
            f"{name}_time_constant": [None if not rate else 1 / rate for rate in rates[:, side]],
            f"{name}_rate": rates[:, side],
            f"{name}_linear": [0.75] * count,
            f"{name}_kernel": (2 * np.exp(-rates[:, side, None] * lag)).tolist(),
        }
    along = range(0, min(count, len(GROUPS) * len(EPOCHS)), len(GROUPS))
    trained = [
        {"meta": meta, "path": ids[along[-1]], "network": ids[place], "epochs": epochs, "theta": theta[place].tolist()}
        for meta in (0, 1) for place, epochs in zip(along, EPOCHS, strict=False)
    ]  # fmt: skip
    scores = {"meta": [0, 1], "path": [ids[along[-1]]] * 2, "points": [len(along)] * 2}
    for name in ("length", "smoothness", "monotonicity"):
        scores |= {name: [1.25, 1.5], f"{name}_shuffled": [2.0, 2.5], f"{name}_p": [0.01, 0.02]}
    return {
        "memory": {"memory": memory},
        "trajectory": {"trajectory": _by_column(trained), "paths": scores},
        "similarity": {"measures": measures, "coordinates": coordinates},
        "landscape": {"landscape": landscape, "landscape_networks": circles},
        "averaging": {
            "averaging": {
                "name": [GROUPS[0]] * 2,
                "groups": [1, 1],
                "method": ["base", "mean_theta"],
                "of": [ids[0], "0"],
                "score": [0.9, 0.95],
            }
        },
        "semisupervised": {
            "semisupervised": {"task": ["label"] * 4, "labels": [20, 20, 40, 40], "method": ["theta"] * 4, "score": [0.7, 0.8, 0.9, 0.95]}
        },
        "fixed-points": {"points": _by_column(points), "trajectories": _by_column(trajectories)},
        "theta-path": {"path": _by_column(path), "bifurcations": {"kind": ["pitchfork"], "at": [0.55]}},
        "reparameterize": {"copies": {"measure": ["theta", "weights"], "ratio": [0.05, 0.9]}},
    }


def _by_column(rows):
    return {name: [row[name] for row in rows] for name in rows[0]}
