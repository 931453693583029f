"""The one small configuration that all launch files are filled from: a TOML file; `example.toml` beside this one shows every key."""

import dataclasses
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from dynamo_dist.errors import InputError

# What a text may consist of. It ends up in YAML, in shell commands and in #SBATCH lines: nothing that any of them would interpret, and
# no hyphen first, which would make it an option; only what is handed on to our own commands may have one.
PLAIN = re.compile(r"[A-Za-z0-9_~/][A-Za-z0-9_.,:/@=+~-]*")
ARGUMENT = re.compile(r"-{0,2}" + PLAIN.pattern)
ARGUMENTS = ("kubernetes.job", "slurm.window")
# Of Kubernetes, the strictest of all systems that get the name.
NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
TIME = re.compile(r"(\d+-)?\d{1,2}:\d{2}:\d{2}")


@dataclass(frozen=True, kw_only=True)
class AWS:
    """Nodes that Ray's launcher starts on EC2, without public addresses."""

    region: str
    # A private subnet with a NAT gateway, since the nodes pull their image, and a security group of the same network that lets them
    # talk to each other and SSH in from the bastion.
    subnet: str
    security_group: str
    # Instance types, such as m5.large.
    head: str
    worker: str
    # What every node mounts as the storage: an EFS or other NFS export, host:/path.
    nfs: str
    # A host through which SSH goes, user@host; "": `ray up` is called from inside the private network.
    bastion: str = ""


@dataclass(frozen=True, kw_only=True)
class GCP:
    """Nodes that Ray's launcher starts on Compute Engine, without external addresses."""

    project: str
    zone: str
    # A subnetwork of the zone's region with Cloud NAT, since the nodes pull their image.
    subnetwork: str
    # Machine types, such as n2-standard-8; those with GPUs include them (a2, g2).
    head: str
    worker: str
    # A Debian-like boot image with Docker, and the driver where there are GPUs.
    disk_image: str
    nfs: str
    bastion: str = ""


@dataclass(frozen=True, kw_only=True)
class OnPremise:
    """Machines that are there, reached by SSH; the storage is mounted on all of them."""

    head: str
    workers: list[str]
    user: str
    # File of the private key for SSH.
    key: str


@dataclass(frozen=True, kw_only=True)
class Kubernetes:
    """A cluster with the KubeRay operator, 1.5.1 or newer."""

    namespace: str
    # Where the operator runs: only it and the cluster's own pods reach the head.
    operator_namespace: str
    # A PersistentVolumeClaim of access mode ReadWriteMany: the storage.
    claim: str
    # What the RayJob runs: arguments of `dynamo-dist`.
    job: list[str]


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """Batch jobs; the storage is a folder of the shared file system."""

    partition: str
    # Hours, minutes and seconds, such as 04:00:00.
    time: str
    account: str = ""
    # What starts the ranks of jordan-dist: srun --mpi=pmix, or the MPI's own mpirun.
    launcher: str = "srun"
    # The window of `jordan-dist scan` as lower left and upper right corner, and into how many tiles (across, up) an array job cuts it.
    window: str = ""
    tiles: list[int] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        if not TIME.fullmatch(self.time):
            raise InputError(f"slurm.time = {self.time!r}: expected hours, minutes and seconds, such as 04:00:00")
        if self.launcher not in ("srun", "mpirun"):
            raise InputError(f"slurm.launcher = {self.launcher!r}: expected srun or mpirun")
        if bool(self.window) != bool(self.tiles):
            raise InputError("slurm.window and slurm.tiles belong together: give both, or neither")
        if self.tiles and not (len(self.tiles) == 2 and min(self.tiles) >= 1):
            raise InputError(f"slurm.tiles = {self.tiles}: expected two numbers of at least 1, across and up")
        if self.window:
            self.windows()

    def windows(self) -> list[str]:
        """The tiles of the window, row by row from below, as `jordan-dist scan --window` takes them."""
        try:
            low, high = (complex(corner.replace("i", "j")) for corner in self.window.split(":"))
        except ValueError:
            low = high = 0j
        if not (low.real < high.real and low.imag < high.imag):
            raise InputError(
                f"slurm.window = {self.window!r}: expected a lower left and an upper right corner of the complex plane, such as -1-1i:1+1i"
            )
        across, up = self.tiles
        real = [low.real * (1 - i / across) + high.real * (i / across) for i in range(across + 1)]
        imag = [low.imag * (1 - j / up) + high.imag * (j / up) for j in range(up + 1)]
        return [f"{real[i]!r}{imag[j]:+}i:{real[i + 1]!r}{imag[j + 1]:+}i" for j in range(up) for i in range(across)]


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """A cluster of `nodes` equal workers. What is rendered is what has a section."""

    name: str
    # A folder that every node sees: populations, meta-models and data live below it.
    storage: str
    # Workers beside the head, and of each: CPU cores, memory in GiB, GPUs.
    nodes: int
    cpus: int
    memory: int
    gpus: int = 0
    # The container image built from the Containerfile, where nodes are containers (aws, gcp, kubernetes).
    image: str = ""
    # The virtual environment on the shared storage, where they are not (on-premise, slurm).
    environment: str = ""
    aws: AWS | None = None
    gcp: GCP | None = None
    on_premise: OnPremise | None = None
    kubernetes: Kubernetes | None = None
    slurm: Slurm | None = None

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise InputError(f"name = {self.name!r}: expected lower-case letters, digits and hyphens, at most 40, a letter first")
        for key, least in (("nodes", 1), ("cpus", 1), ("memory", 1), ("gpus", 0)):
            if getattr(self, key) < least:
                raise InputError(f"{key} = {getattr(self, key)}: expected at least {least}")
        for key in ("storage", "environment"):
            value = getattr(self, key)
            if value and not (value.startswith("/") and len(value) > 1):
                raise InputError(f"{key} = {value!r}: expected an absolute path, the same on every node")
        for key, sections in (("image", ("aws", "gcp", "kubernetes")), ("environment", ("on_premise", "slurm"))):
            for section in sections:
                if getattr(self, section) and not getattr(self, key):
                    raise InputError(f"the key {key!r} is missing: [{_written(section)}] needs it")
        if self.on_premise and len(self.on_premise.workers) != self.nodes:
            raise InputError(f"on-premise.workers names {len(self.on_premise.workers)} machines and nodes = {self.nodes}: make them equal")

    @property
    def per_node(self) -> int:
        """Ray workers of a node: one per GPU where there are any, else one per core."""
        return self.gpus or self.cpus


def read_config(path: Path) -> LaunchConfig:
    """The configuration in a TOML file. Raises `InputError`, one sentence that names the key."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path} is not a readable TOML file: {error}") from None
    try:
        config: LaunchConfig = _fill(LaunchConfig, content, "")
        return config
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _written(name: str) -> str:
    """A field's name as it stands in the file."""
    return name.replace("on_premise", "on-premise")


def _fill(kind: type, table: dict[str, Any], prefix: str) -> Any:
    """A dataclass from a table: no unknown key, none missing, the types as declared, strings of harmless characters."""
    fields = {_written(field.name): field for field in dataclasses.fields(kind)}
    values = {}
    for key, value in table.items():
        if key not in fields:
            raise InputError(f"unknown key {prefix + key!r}; expected one of {', '.join(fields)}")
        field = fields[key]
        section = next((part for part in get_args(field.type) if isinstance(part, type) and dataclasses.is_dataclass(part)), None)
        values[field.name] = _fill(section, value, f"{key}.") if section and isinstance(value, dict) else _plain(field, value, prefix + key)
    for key, field in fields.items():
        if field.name not in values and field.default is field.default_factory is dataclasses.MISSING:
            raise InputError(f"the key {prefix + key!r} is missing")
    return kind(**values)


def _plain(field: dataclasses.Field[Any], value: Any, key: str) -> Any:
    words = {str: "a text", int: "a whole number", list[str]: "a list of texts", list[int]: "a list of whole numbers"}
    if field.type not in words:
        raise InputError(f"{key} = {value!r}: expected a section [{key}]")
    item = (get_args(field.type) or (field.type,))[0]
    items = value if isinstance(value, list) else [value]
    if isinstance(value, list) != bool(get_args(field.type)) or any(type(v) is not item for v in items):
        raise InputError(f"{key} = {value!r}: expected {words[field.type]}")
    allowed = ARGUMENT if key in ARGUMENTS else PLAIN
    for text in items:
        if item is str and not allowed.fullmatch(text):
            raise InputError(f"{key} = {text!r}: expected letters, digits and . , : / @ = + ~ _ - only, without spaces, and not empty")
    return value
