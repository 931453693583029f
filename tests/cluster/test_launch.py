"""Launch files: all render and are valid, none is open to strangers, and a configuration that will not do is refused in one sentence."""

import re

import pytest
import yaml
from launching import EXAMPLE, example, toml

from cluster.__main__ import main
from cluster.launch import validate
from cluster.launch.config import read_config
from cluster.launch.render import FILES, render
from dynamo_dist import InputError

RAY_CLUSTERS = ("aws.yaml", "gcp.yaml", "on-premise.yaml")
MANIFESTS = ("raycluster.yaml", "rayjob.yaml")


@pytest.fixture(scope="module")
def files():
    return render(read_config(EXAMPLE))


@pytest.fixture
def read(tmp_path):
    def of(content):
        path = tmp_path / "cluster.toml"
        path.write_text(content if isinstance(content, str) else toml(content))
        return read_config(path)

    return of


def test_the_example_renders_every_file_and_all_are_valid(files):
    assert set(files) == {name for names in FILES.values() for name in names}
    assert not [name for name, text in files.items() if "{{" in text or "{%" in text]


@pytest.mark.parametrize("section", ["aws", "gcp", "on-premise", "kubernetes", "slurm"])
def test_a_section_alone_renders_its_own_files(read, section):
    assert set(render(read(example(section)))) == set(FILES[section.replace("-", "_")])


def test_what_is_optional_may_be_left_out(read):
    content = example("aws", "gcp", "slurm") | {"gpus": 2}
    for section, keys in (("aws", ["bastion"]), ("gcp", ["bastion"]), ("slurm", ["account", "window", "tiles", "launcher"])):
        for key in keys:
            del content[section][key]
    rendered = render(read(content))
    assert "scan.sbatch" not in rendered and "--account" not in rendered["dynamo.sbatch"]
    assert not any("ssh_proxy_command" in rendered[name] for name in ("aws.yaml", "gcp.yaml"))
    assert "--gpus-per-node=2" in rendered["dynamo.sbatch"] and "srun --mpi=pmix" in rendered["jordan.sbatch"]


@pytest.mark.parametrize("name", RAY_CLUSTERS)
def test_ray_clusters_start_with_a_token_and_without_public_addresses(files, name):
    config = yaml.safe_load(files[name])
    head, worker = config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]
    for command in (head, worker):
        before, start = command.split("ray start")
        assert "RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$HOME/.ray/auth_token" in before and "0.0.0.0" not in start
    assert "--dashboard-host=127.0.0.1" in head
    assert config["setup_commands"] == ["chmod 600 ~/.ray/auth_token"]
    assert list(config["file_mounts"]) == ["~/.ray/auth_token"]  # by reference, never by value
    if name == "on-premise.yaml":
        return
    assert config["provider"]["use_internal_ips"] is True
    for node in config["available_node_types"].values():
        # Compute Engine gives an external address only where accessConfigs ask for it; EC2 where the subnet does, unless told not to.
        key, public = ("networkInterfaces", "accessConfigs") if name == "gcp.yaml" else ("NetworkInterfaces", "AssociatePublicIpAddress")
        (interface,) = node["node_config"][key]
        assert interface.get(public, False) is False
        assert name == "gcp.yaml" or (public in interface and interface["Groups"] == ["sg-0123456789abcdef0"])


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_want_a_token_and_close_the_network(files, name):
    ray, policy = yaml.safe_load_all(files[name])
    cluster = ray["spec"].get("rayClusterSpec", ray["spec"])
    assert cluster["authOptions"] == {"mode": "token"} and cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        assert {"name": "RAY_AUTH_MODE", "value": "token"} in container["env"]
        assert group["template"]["metadata"]["labels"].items() >= policy["spec"]["podSelector"]["matchLabels"].items()
    # KubeRay's operator reaches the dashboard of a RayJob; that of a RayCluster is reached through a forwarded port.
    expected = "127.0.0.1" if name == "raycluster.yaml" else "0.0.0.0"
    assert cluster["headGroupSpec"]["rayStartParams"]["dashboard-host"] == expected
    assert policy["kind"] == "NetworkPolicy" and policy["spec"]["policyTypes"] == ["Ingress"]
    assert all(set(peer) <= {"podSelector", "namespaceSelector"} and peer for rule in policy["spec"]["ingress"] for peer in rule["from"])


def test_scripts_want_a_token(files):
    for name in ("dynamo.sbatch", "submit.sh"):
        assert "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=" in files[name]
    assert "umask 077" in files["dynamo.sbatch"] and "--dashboard-host=127.0.0.1" in files["dynamo.sbatch"]


def test_no_file_holds_a_secret(files):
    for name, text in files.items():
        assert not re.search(r"[0-9a-f]{32}|BEGIN [A-Z ]*PRIVATE KEY|(?i:password|secret_key)\s*[:=]", text), name


REQUIRED = [
    *("name", "storage", "nodes", "cpus", "memory", "image", "environment"),
    *("aws.region", "aws.subnet", "aws.security_group", "aws.head", "aws.worker", "aws.nfs"),
    *("gcp.project", "gcp.zone", "gcp.subnetwork", "gcp.head", "gcp.worker", "gcp.disk_image", "gcp.nfs"),
    *("on-premise.head", "on-premise.workers", "on-premise.user", "on-premise.key"),
    *("kubernetes.namespace", "kubernetes.operator_namespace", "kubernetes.claim", "kubernetes.job"),
    *("slurm.partition", "slurm.time"),
]


@pytest.mark.parametrize("key", REQUIRED)
def test_a_missing_key_is_named(read, key):
    content = example("aws", "gcp", "on-premise", "kubernetes", "slurm")
    section, _, name = key.rpartition(".")
    del (content[section] if section else content)[name]
    with pytest.raises(InputError, match=f"the key '{key}' is missing"):
        read(content)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("aws.regoin", "eu", "unknown key 'aws.regoin'; expected one of region, subnet"),
        ("nodse", 2, "unknown key 'nodse'"),
        ("nodes", "two", "nodes = 'two': expected a whole number"),
        ("nodes", 0, "nodes = 0: expected at least 1"),
        ("gpus", 1.5, "gpus = 1.5: expected a whole number"),
        ("aws", 3, r"aws = 3: expected a section \[aws\]"),
        ("on-premise.workers", "10.0.0.11", "on-premise.workers = '10.0.0.11': expected a list of texts"),
        ("on-premise.workers", ["10.0.0.11"], "names 1 machines and nodes = 2"),
        ("storage", "shared", "storage = 'shared': expected an absolute path"),
        ("name", "My Cluster", "name = 'My Cluster'"),
        ("slurm.time", "4h", "slurm.time = '4h': expected hours"),
        ("slurm.launcher", "aprun", "slurm.launcher = 'aprun': expected srun or mpirun"),
        ("slurm.window", "1+1i:-1-1i", "slurm.window = '1.1i:-1-1i': expected a lower left"),
        ("slurm.tiles", [4], r"slurm.tiles = \[4\]: expected two numbers"),
        # Code in a configuration.
        ("name", "x; touch /tmp/x", "name = 'x; touch"),
        ("storage", "/shared/$(id)", "storage = .*expected letters"),
        ("image", "image`id`", "image = .*expected letters"),
        ("slurm.partition", "compute\n#SBATCH --uid=0", "slurm.partition = .*expected letters"),
        ("on-premise.user", "-oProxyCommand=id", "on-premise.user = .*expected letters"),
        ("on-premise.workers", ["10.0.0.11", "10.0.0.12', '"], "on-premise.workers = .*expected letters"),
        ("kubernetes.job", ["run", "valence", "&&", "id"], "kubernetes.job = '&&': expected letters"),
        ("gcp.project", "{{ cycler }}", "gcp.project = .*expected letters"),
    ],
)
def test_what_will_not_do_is_refused_in_one_sentence(read, key, value, sentence):
    content = example("aws", "gcp", "on-premise", "kubernetes", "slurm")
    section, _, name = key.rpartition(".")
    (content[section] if section else content)[name] = value
    with pytest.raises(InputError, match=sentence) as refused:
        read(re.sub(r"'((?:[^'\\]|\\.)*)'", lambda m: '"' + m[1] + '"', toml(content)) if "\n" in str(value) else content)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_none_and_a_configuration_of_nothing_are_refused(read, tmp_path):
    with pytest.raises(InputError, match="is not a readable TOML file"):
        read("name: dynamo")
    with pytest.raises(InputError, match="is not a readable TOML file"):
        read_config(tmp_path / "nowhere.toml")
    with pytest.raises(InputError, match="nothing to render: give at least one section of aws, gcp, on-premise"):
        render(read(example()))


@pytest.mark.parametrize(
    ("how", "name", "old", "new"),
    [
        (validate.ray_cluster, "aws.yaml", "max_workers: 2\nidle", "max_workers: two\nidle"),
        (validate.ray_cluster, "aws.yaml", "head_node_type: head", "head_node_typo: head"),
        (validate.ray_cluster, "gcp.yaml", "head_node_type: head", "head_node_type: haed"),
        (validate.kubernetes, "raycluster.yaml", "authOptions: {mode: token}", "authOptions: {mode: disabled}"),
        (validate.kubernetes, "raycluster.yaml", "replicas: 2", "replicas: two"),
        (validate.kubernetes, "rayjob.yaml", "volumeMounts:", "volumeMount:"),
        (validate.kubernetes, "rayjob.yaml", "submissionMode", "submissionmode"),
        (validate.kubernetes, "rayjob.yaml", "policyTypes: [Ingress]", "policyTypes: Ingress"),
        (validate.script, "dynamo.sbatch", "set -euo pipefail", "if set -euo pipefail"),
        (validate.script, "dynamo.sbatch", '"$run/token"', "$run/token"),
    ],
)
def test_a_damaged_file_does_not_validate(files, how, name, old, new):
    assert old in files[name]
    validate.check(name, files[name], how)
    with pytest.raises(InputError, match=f"{name} as rendered is not valid"):
        validate.check(name, files[name].replace(old, new), how)


def test_tiles_cover_the_window_once(read):
    config = read(example("slurm"))
    corners = [[complex(c.replace("i", "j")) for c in tile.split(":")] for tile in config.slurm.windows()]
    assert len(corners) == 8
    area = sum((high - low).real * (high - low).imag for low, high in corners)
    assert area == pytest.approx(0.42 * 0.72)
    assert min(low.real for low, _ in corners) == -0.2 and max(high.imag for _, high in corners) == 0.37
    # Neighbours share their edges to the last bit: nothing falls between them.
    assert {low.real for low, _ in corners} - {-0.2} == {high.real for _, high in corners} - {0.22}


def test_the_command_writes_the_files_and_replaces_them_when_told(tmp_path, capsys):
    config = tmp_path / "cluster.toml"
    config.write_text(toml(example("slurm")))
    command = ["render", str(config), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "out" / name) for name in FILES["slurm"]]
    assert main(command) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(f"cluster: --out {tmp_path / 'out'} already holds dynamo.sbatch")
    assert main([*command, "--overwrite"]) == 0


def test_the_container_is_built_by_the_set_up_script():
    """As far as it goes without a registry: its commands parse, and what it copies and installs is what the script expects."""
    folder = EXAMPLE.parents[1]
    text = re.sub(r"\\\n|^#.*\n", "", (folder / "Containerfile").read_text(), flags=re.MULTILINE)
    commands = [line.removeprefix("RUN ") for line in text.splitlines() if line.startswith("RUN ")]
    assert len(commands) == 3 and any("bash cluster/setup.sh" in command for command in commands)
    for command in commands:
        validate.script(f"#!/bin/sh\n# shellcheck disable=SC2016,SC2086\n{command}\n")
    (torch,) = set(re.findall(r"torch==[\d.]+", text))
    assert torch in (folder / "setup.sh").read_text()
    assert "USER 1000" in text and "RAY_AUTH_MODE=token" in text
