"""Checks of rendered launch files, by the systems' own schemas where there are any. Nothing is contacted."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from dynamo_dist.errors import InputError

# A version that the schemas of kubernetes-validate have and whose API every supported cluster speaks.
KUBERNETES = "1.30"
SCHEMA = Path(__file__).with_name("kuberay.schema.json")

# As in dynamo_dist/runtime: Ray reads it once for a process, and this one may start a cluster later.
os.environ.setdefault("RAY_AUTH_MODE", "token")

try:
    import jsonschema
    import kubernetes_validate
    import yaml
    from ray.autoscaler._private.util import prepare_config, validate_config
except ImportError as error:
    raise InputError(f"rendering launch files needs more packages ({error}): pip install 'dynamo-jordan[cluster]'") from None


def ray_cluster(text: str) -> None:
    """A configuration of Ray's cluster launcher, completed and checked by Ray itself."""
    validate_config(prepare_config(yaml.safe_load(text)))


def kubernetes(text: str) -> None:
    """Manifests: KubeRay's by our schema of what we use of it, the pods in them and everything else by the schemas of Kubernetes."""
    for manifest in yaml.safe_load_all(text):
        if not manifest["apiVersion"].startswith("ray.io/"):
            kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
            continue
        jsonschema.validate(manifest, json.loads(SCHEMA.read_text()))
        cluster = manifest["spec"].get("rayClusterSpec", manifest["spec"])
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            kubernetes_validate.validate({"apiVersion": "v1", "kind": "Pod", **group["template"]}, KUBERNETES, strict=True)


def script(text: str) -> None:
    """A shell script: its syntax by bash, what it means by ShellCheck."""
    # pip puts ShellCheck beside the interpreter. SC1091: the virtual environment that is sourced is on the cluster, not here.
    shellcheck = [str(Path(sys.executable).with_name("shellcheck")), "--shell=bash", "--exclude=SC1091", "-"]
    for command in (["bash", "-n"], shellcheck):
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ValueError((done.stdout + done.stderr).strip())


def runtime_environment(text: str) -> None:
    """The runtime environment of a Ray job, by Ray."""
    from ray.runtime_env import RuntimeEnv

    RuntimeEnv(**yaml.safe_load(text))


def check(name: str, text: str, how: Callable[[str], None]) -> None:
    """Raise `InputError` with the file's name and the first complaint of one of the checks above."""
    try:
        how(text)
    except (ValueError, jsonschema.ValidationError, yaml.YAMLError) as error:
        complaint = getattr(error, "message", str(error))
        raise InputError(f"{name} as rendered is not valid: {complaint}") from None
