"""Fills the launch files from a configuration, checks them, and writes them."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from cluster.launch import validate
from cluster.launch.config import LaunchConfig
from dynamo_dist.errors import InputError

try:
    import jinja2
    import ray
except ImportError as error:
    raise InputError(f"rendering launch files needs more packages ({error}): pip install 'dynamo-jordan[cluster]'") from None

TEMPLATES = Path(__file__).with_name("templates")
SUBMIT = {"submit.sh": validate.script, "runtime-env.yaml": validate.runtime_environment}
# What belongs to each section, and how it is checked; a hostfile has no grammar to check.
FILES: dict[str, dict[str, Callable[[str], None] | None]] = {
    "aws": {"aws.yaml": validate.ray_cluster, **SUBMIT},
    "gcp": {"gcp.yaml": validate.ray_cluster, **SUBMIT},
    "on_premise": {"on-premise.yaml": validate.ray_cluster, "hostfile": None, "jordan.sh": validate.script, **SUBMIT},
    "kubernetes": {"raycluster.yaml": validate.kubernetes, "rayjob.yaml": validate.kubernetes, **SUBMIT},
    "slurm": {"dynamo.sbatch": validate.script, "jordan.sbatch": validate.script, "scan.sbatch": validate.script},
}


def render(config: LaunchConfig) -> dict[str, str]:
    """The launch files of a configuration by their names, all checked. Raises `InputError` where one is not valid."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # the values are of harmless characters: see PLAIN in config.py
    )
    common = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    common |= {"per_node": config.per_node, "ray_version": ray.__version__, "activate": ""}
    files = {}
    for section, checks in FILES.items():
        own = getattr(config, section)
        if own is None:
            continue
        values = common | dataclasses.asdict(own)
        if section == "gcp":
            values["region"] = own.zone.rpartition("-")[0]
        elif section == "on_premise":
            values["activate"] = f". {config.environment}/bin/activate; "
        elif section == "slurm":
            values["windows"] = own.windows() if own.window else []
        for name, check in checks.items():
            if name == "scan.sbatch" and not own.window:
                continue
            files[name] = environment.get_template(name).render(values)
            if check:
                validate.check(name, files[name], check)
    if not files:
        raise InputError(f"nothing to render: give at least one section of {', '.join(FILES).replace('_', '-')}")
    return files


def write(files: dict[str, str], out: Path, *, overwrite: bool) -> list[Path]:
    """Write rendered files to a folder. Raises `InputError`, and writes nothing, where one is there and `overwrite` is not given."""
    there = [name for name in files if (out / name).exists()]
    if there and not overwrite:
        raise InputError(f"--out {out} already holds {there[0]}: replace it with --overwrite, or give another folder")
    out.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (out / name).write_text(text, encoding="utf-8")
    return [out / name for name in files]
