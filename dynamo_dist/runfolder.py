"""The folder of a run: whose it is, and what may be written to it."""

import json
from pathlib import Path
from typing import Any

from dynamo_dist import storage
from dynamo_dist.commit import understood, write_json
from dynamo_dist.errors import InputError

MARK = "run.json"


def check(out: Path, identity: dict[str, Any], *, resume: bool, overwrite: bool) -> None:
    """Raise `InputError`, and change nothing, unless `out` can become or is the folder of the run `identity`.

    A new or empty folder can. A folder of a run is continued with `resume` if it is the same run, and replaced with `overwrite`.
    Any other folder that is not empty is refused: what we did not write is not ours to remove.
    """
    if resume and overwrite:
        raise InputError("--resume and --overwrite exclude each other: continue the run, or start it over")
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file: give a folder")
    mark, where = out / MARK, storage.address(out)
    storage.fetch(mark)
    if mark.exists():
        with understood(mark):
            there = dict(json.loads(mark.read_text()))
        if resume and there != json.loads(json.dumps(identity)):
            raise InputError(
                f"--out {where} holds another run ({there.get('name')}, or other settings): resume it with its own, or use another folder"
            )
        if not resume and not overwrite:
            raise InputError(
                f"--out {where} already holds a run of {there.get('name')}: continue it with --resume, or replace it with --overwrite"
            )
    elif not storage.is_empty(out):
        raise InputError(f"--out {where} is not empty and holds no run: choose another folder")


def claim(out: Path, identity: dict[str, Any], *, resume: bool, overwrite: bool) -> None:
    """Make `out` the folder of the run `identity`, emptied if it is replaced; refuses what `check` refuses."""
    check(out, identity, resume=resume, overwrite=overwrite)
    mark = out / MARK
    if mark.exists() and overwrite:
        storage.remove(out)
    if not mark.exists():
        storage.fetch(out)  # nothing: a mirror may hold what was there before
        out.mkdir(parents=True, exist_ok=True)
        write_json(mark, identity)
