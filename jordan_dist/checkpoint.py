"""The state of a solve after each outer step, and the way back into it on any number of ranks.

A step is a folder `step-0007`: the bases X and Y in PETSc's binary format, what is small in `state.json`, and `manifest.json` with the
size and the SHA-256 of these files. It is filled under another name, synced, the manifest last, and renamed, so that it is there
completely or not at all; readers take the newest that verifies. The last two are kept.

The numbers in it are only where the iteration goes on: what it converges to is decided by the matrices at hand.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from jordan_dist.backends import Backend
from jordan_dist.io import jsonable, read_block, write_block, write_json
from jordan_dist.pencil import Pencil, apply_sum
from jordan_dist.subspace import DeflatingPair

log = logging.getLogger("jordan_dist")

MANIFEST, STATE = "manifest.json", "state.json"
KEPT = 2  # the last may be damaged
STEP = re.compile(r"\.?step-\d+(\.part)?")
SAME = 1e-10  # relative: the products with a random block, summed over other ranks, differ by rounding


class Checkpoint:
    """The steps in `folder` (made when the first one is written) of the solve that `request` describes, in terms of JSON.

    Collective, as everything here. ValueError if the folder holds the steps of another request.
    """

    def __init__(self, folder: str | Path, backend: Backend, request: dict[str, Any]):
        self.folder, self.backend, self.request = Path(folder), backend, jsonable(request)
        self.fingerprint: np.ndarray | None = None
        root = backend.comm is None or backend.comm.rank == 0
        newest = _newest(self.folder) if root else (None, None)
        self.path: Path | None
        self.state: dict[str, Any] | None
        self.path, self.state = newest if backend.comm is None else backend.comm.bcast(newest)
        self.number = 0 if self.path is None else int(self.path.name.removeprefix("step-")) + 1
        if self.state is None:
            return
        for key, asked in self.request.items():
            there = self.state["request"].get(key)
            if there != asked:
                raise ValueError(f"{self.folder} holds the steps of another solve: its {key} was {there}, and now it is {asked}")
        for name, spent in self.state["cost"].items():
            setattr(backend.cost, name, getattr(backend.cost, name) + spent)
        log.info("going on from %s", self.path)

    def begin(self, pencil: Pencil) -> DeflatingPair | None:
        """The pair that was saved, if any; for once, as its variables are those of `pencil`, with which the solve starts. ValueError if it
        belongs to other matrices."""
        self.fingerprint, state, self.state = fingerprint(pencil), self.state, None
        if state is None:
            return None
        there = np.array(state["fingerprint"])
        if there.shape != self.fingerprint.shape or np.any(np.abs(there - self.fingerprint) > SAME * self.fingerprint[:, :1]):
            raise ValueError(f"{self.folder} holds the steps of a solve with other matrices: bring those, or name another folder")
        assert self.path is not None, "its state was read from there"
        X, Y = (read_block(self.path / f"{name}.petsc", self.backend) for name in "XY")
        M, others = (complex_array(state[name]) for name in ("M", "others"))
        return DeflatingPair(X, Y, M, state["residual"], state["uncertainty"], others)

    def save(self, pair: DeflatingPair, **more: Any) -> None:
        """Writes a step; `more` is small, and in `state` when the solve goes on."""
        comm, path = self.backend.comm, self.folder / f"step-{self.number:04d}"
        root, part = comm is None or comm.rank == 0, path.with_name(f".{path.name}.part")
        if root:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
        if comm is not None:
            comm.Barrier()
        write_block(part / "X.petsc", pair.X, self.backend)
        write_block(part / "Y.petsc", pair.Y, self.backend)
        if root:
            about = {"request": self.request, "fingerprint": self.fingerprint, "cost": asdict(self.backend.cost)}
            small = {"M": pair.M, "others": pair.others.astype(complex), "residual": pair.residual, "uncertainty": pair.uncertainty}
            write_json(part / STATE, about | small | more)
            _commit(part, path)
            for old in sorted(self.folder.glob("step-*"))[:-KEPT]:
                shutil.rmtree(old)
        self.number += 1


def complex_array(pairs: list[Any]) -> np.ndarray:
    """An array of complex128 from its [re, im]."""
    return np.array(pairs, dtype=float).reshape(*np.shape(pairs)[:-1], 2).view(complex)[..., 0] if pairs else np.array([], dtype=complex)


def fingerprint(pencil: Pencil) -> np.ndarray:
    """By what the matrices of a pencil are told from others, the same on any number of ranks up to rounding: of each one's product Z with
    a random block P a row of ||Z|| and of the real and the imaginary part of tr(P^H Z) / ||P||, which are no larger."""
    backend, rows = pencil.backend, []
    P = backend.random_block(2, seed=20170420)
    for terms in (pencil.A, pencil.B, *pencil.dA, *pencil.dB):
        Z = apply_sum(backend, terms, P) if terms else np.zeros_like(P)
        trace = np.trace(backend.inner(P, Z)) / backend.norm(P)
        rows.append([backend.norm(Z), trace.real, trace.imag])
    return np.array(rows)


def is_folder_of_steps(folder: Path) -> bool:
    """Whether nothing but steps, complete or begun, is in the folder."""
    return folder.is_dir() and all(STEP.fullmatch(path.name) for path in folder.iterdir())


def _newest(folder: Path) -> tuple[Path | None, dict[str, Any] | None]:
    for path in sorted(folder.glob("step-*"), reverse=True):
        if _verifies(path):
            return path, json.loads((path / STATE).read_text())
        log.warning("%s is not what was written: it is left aside", path)
    return None, None


def _verifies(path: Path) -> bool:
    try:
        files = json.loads((path / MANIFEST).read_text())["files"]
        return all(files[name] == _digest(path / name) for name in files)
    except (OSError, ValueError, KeyError):
        return False


def _digest(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _commit(part: Path, path: Path) -> None:
    files = sorted(part.iterdir())
    for file in files:
        _sync(file)
    write_json(part / MANIFEST, {"files": {file.name: _digest(file) for file in files}})
    _sync(part)
    shutil.rmtree(path, ignore_errors=True)  # a damaged one of this number
    part.rename(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
