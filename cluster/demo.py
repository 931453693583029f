"""The demo: a population on Ray with its meta-model, two exceptional points over MPI, and one page that shows all of it.

Every step is one of the commands that users type, run as they would run it; nothing is done here that they cannot do.
"""

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

RANKS = 2
EXAMPLES = ("resonators", "waveguides")


def mpi_environment() -> dict[str, str]:
    """One thread per rank; and Open MPI runs as root only when told so twice (containers, fresh virtual machines)."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if os.geteuid() == 0:
        environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return environment


def steps(out: Path, size: str) -> list[tuple[list[str], dict[str, str]]]:
    """The commands, with their environments, in order."""
    commands = Path(sys.executable).parent
    population = [
        str(commands / "dynamo-dist"),
        "run",
        "valence",
        "--size",
        size,
        "--workers",
        "2",
        "--out",
        str(out / "valence"),
        "--overwrite",
    ]
    result = [(population, dict(os.environ))]
    for name in EXAMPLES:
        solve = [str(commands / "jordan-dist"), "example", name, "--ep", "--out", str(out / name), "--overwrite"]
        result.append((["mpirun", "--oversubscribe", "-n", str(RANKS), *solve], mpi_environment()))
    return result


def demo(out: Path, *, size: str = "small") -> int:
    """Run the steps and write `report.html`; returns the exit status of the first step that fails."""
    began = time.monotonic()
    for command, environment in steps(out, size):
        shown = [Path(command[0]).name, *command[1:]] if command[0] != "mpirun" else command
        print(f"\n$ {shlex.join(shown)}", flush=True)
        status = subprocess.run(command, env=environment, check=False).returncode
        if status:
            print(f"demo: stopped, the command above failed with exit status {status}", file=sys.stderr)
            return status
    write_page(out)
    print(f"\ndemo: done in {time.monotonic() - began:.0f} s; open {out / 'report.html'}", flush=True)
    return 0


def write_page(out: Path) -> Path:
    """One self-contained page with the sections of both halves."""
    import dynamo_dist.report
    import jordan_dist.report

    introduction = (
        "<p>A population of networks trained on Ray, the one meta-model that emulates all of them, and the exceptional points of "
        "two large sparse pencils with their Jordan chains, solved over MPI.</p>"
    )
    after = "\n".join(jordan_dist.report.sections(out / name) for name in EXAMPLES)
    path = out / "report.html"
    shown = dynamo_dist.report.contents(out / "valence")
    path.write_text(dynamo_dist.report.page("dynamo-jordan demo", shown, before=introduction, after=after), encoding="utf-8")
    return path
