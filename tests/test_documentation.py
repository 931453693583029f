"""The documentation: its code runs, its commands are those of the parsers, its links lead somewhere, its messages are the code's.

A block below `<!-- not run: REASON -->` is only checked: Python is compiled, shell is read by `bash -n` and every command of ours in it by
its real parser. A block with a title is a file, which the blocks after it find.
"""

import ast
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse

import dynamo_dist.cli
import jordan_dist.cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^>]+) -->\n+)?```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<code>.*?)^```$", re.M | re.S
)
PROGRAMS = {"dynamo-dist": dynamo_dist.cli, "dynamo_dist.cli": dynamo_dist.cli, "jordan-dist": jordan_dist.cli}


@dataclass(frozen=True)
class Block:
    where: str
    language: str
    code: str
    title: str | None
    reason: str | None


def blocks(page):
    text = page.read_text()
    name = page.relative_to(ROOT)
    return [
        Block(
            f"{name}:{text.count(chr(10), 0, found.start('code')) + 1}", *(found[part] for part in ("language", "code", "title", "reason"))
        )
        for found in BLOCK.finditer(text)
    ]


ALL = [block for page in PAGES for block in blocks(page)]


def commands(block):
    """The words of every line of a shell block."""
    lines = block.code.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def ours(words):
    """The program and its arguments, behind mpirun or torchrun too; None for a command that is not ours."""
    found = next((i for i, word in enumerate(words) if word in PROGRAMS), None)
    return None if found is None else (PROGRAMS[words[found]], words[found + 1 :])


def run(block, names):
    if block.title:
        Path(block.title).write_text(block.code)
    elif block.language == "python":
        exec(compile(block.code, block.where, "exec"), names)
    elif block.language == "sh":
        for words in commands(block):
            assert words[0] in PROGRAMS, f"{block.where}: mark the block as not run, or use a command of ours: {words}"
            program, arguments = ours(words)
            assert program.main(arguments) == 0, f"{block.where}: {words}"


@pytest.mark.parametrize("block", [block for block in ALL if block.language == "python"], ids=lambda block: block.where)
def test_python_compiles(block):
    compile(block.code, block.where, "exec")


@pytest.mark.parametrize("block", [block for block in ALL if block.language == "sh"], ids=lambda block: block.where)
def test_commands_are_those_of_the_parsers(block):
    subprocess.run(["bash", "-n"], input=block.code, text=True, check=True)
    for program, arguments in filter(None, map(ours, commands(block))):
        program.parser().parse_args(arguments)


@pytest.mark.slow
@pytest.mark.parametrize(
    "pages", [("own-population", "averaging"), ("exceptional-point",), ("cluster",)], ids=lambda pages: " ".join(pages)
)
def test_tutorials_run(pages, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    names = {"__name__": "tutorial"}
    for page in pages:
        for block in blocks(ROOT / "docs" / "tutorials" / f"{page}.md"):
            if block.reason is None:
                run(block, names)


def pencils():
    """What the README calls its matrices: of order 8, with an exceptional point at p = 0 and 7.6 - 0.2j, all else far away."""
    pair = np.array([[0, 1], [0, 0]]), np.array([[0, 0], [1, 0]])
    far = np.diag([20.0, 30, 40, 50, 60, 70])
    A0 = scipy.sparse.csc_array(scipy.linalg.block_diag((7.6 - 0.2j) * np.eye(2) + pair[0], far))
    A1 = scipy.sparse.csc_array(scipy.linalg.block_diag(pair[1], 0 * far))
    # (lambda + 4.4)^2 in the first place: a damped oscillator at its critical damping
    mass, damping, stiffness = np.eye(3), np.diag([8.8, 1, 2]), np.diag([4.4**2, 900, 1600])
    names = {"A0": A0, "A1": A1, "A": A0, "B": scipy.sparse.eye_array(8, format="csc")}
    return names | {"mass": mass, "damping": damping, "stiffness": stiffness, "z": 7.5, "source": np.ones(8)}


def test_python_of_the_readme_on_matrices_runs():
    """The other blocks of the README are about runs of minutes: they are compiled above."""
    (block,) = (block for block in blocks(ROOT / "README.md") if "from jordan_dist import" in block.code)
    names = pencils() | {"__name__": "readme"}
    run(block, names)
    assert abs(names["point"].parameters[0]) < 1e-10 and len(names["scan"].points) == 1


def links(page):
    """Targets of the relative links of a page, code left out."""
    text = re.sub(r"```.*?^```|`[^`\n]*`", "", page.read_text(), flags=re.M | re.S)
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(page):
    headings = re.findall(r"^#+ +(.*)$", re.sub(r"```.*?^```", "", page.read_text(), flags=re.M | re.S), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in links(page):
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page}: {target}"
        if anchor:
            assert anchor in anchors(there), f"{page}: {target}"


def templates():
    """Every string in the code, with a NUL for what is filled in, and the script that sets up."""
    found = [(ROOT / "cluster" / "setup.sh").read_text()]
    for path in [path for package in ("dynamo_dist", "jordan_dist") for path in (ROOT / package).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def in_order(pieces, string):
    """Whether the string has these pieces, one after the other."""
    at = 0
    for piece in pieces:
        at = string.find(piece, at)
        if at < 0:
            return False
        at += len(piece)
    return True


def test_messages_of_troubleshooting_are_those_of_the_code():
    """A message is quoted as the code has it, with `<what>` for what is filled in."""
    messages = [block for block in blocks(ROOT / "docs" / "troubleshooting.md") if block.language == "text"]
    assert messages
    strings = templates()
    for message in messages:
        pieces = re.split(r"<[^>]*>", message.code.strip())
        assert any(in_order(pieces, string) for string in strings), f"{message.where}: no such message in the code: {message.code}"


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|img|iframe)[^>]* src=\"?(https?:[^\" >]+)|<link[^>]* rel=\"?stylesheet\"?[^>]* href=\"?(https?:)", page.read_text()
        )
        assert not loaded, f"{page} loads {loaded}"
