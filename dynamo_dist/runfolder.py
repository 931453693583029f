"""The folder of a run: whose it is, and what may be written to it."""

import json
import shutil
from pathlib import Path

from dynamo_dist.commit import write_json
from dynamo_dist.errors import InputError

MARK = "run.json"


def claim(out: Path, identity: dict, *, resume: bool, overwrite: bool) -> None:
    """Make `out` the folder of the run `identity`, or raise `InputError` and leave it as it is.

    A new or empty folder is taken. A folder of a run is continued with `resume` if it is the same run, and emptied with
    `overwrite`. Any other folder that is not empty is refused: what we did not write is not ours to remove.
    """
    identity = json.loads(json.dumps(identity))
    if resume and overwrite:
        raise InputError("--resume and --overwrite exclude each other: continue the run, or start it over")
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file: give a folder")
    mark = out / MARK
    if mark.exists():
        there = json.loads(mark.read_text())
        if resume:
            if there != identity:
                raise InputError(
                    f"--out {out} holds another run ({there.get('name')}, or other settings): resume it with its own, or use another folder"
                )
            return
        if not overwrite:
            raise InputError(
                f"--out {out} already holds a run of {there.get('name')}: continue it with --resume, or replace it with --overwrite"
            )
        shutil.rmtree(out)
    elif out.exists() and any(out.iterdir()):
        raise InputError(f"--out {out} is not empty and holds no run: choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    write_json(mark, identity)
