"""What a command says while it runs: a bar on a terminal, plain lines in a pipe, nothing when it is to be quiet."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from terminal import on_a_terminal

from dynamo_dist.cli import main

# Takes the part of a long training: the time line goes on, something is said in between, and the result is on standard output.
CODE = """
import time
from dynamo_dist import progress
progress.INTERVAL = 0.05
steps = iter(["workers are starting", *(f"population: {done}/4 done; [gru-32] step 7/9, 5 s left" for done in range(5))])
with progress.follow(lambda: next(steps, None)):
    time.sleep(0.2)
    progress.say("a worker died while it trained [3, 4]; tried again")
    time.sleep(0.4)
    print("result.json", flush=True)
progress.summarize("population in runs/mine", [("networks", 4), ("accuracy", "0.9")], [("dynamo-dist report runs/mine", "its page")])
"""
SAID = (
    "population: 4/4 done; [gru-32] step 7/9, 5 s left",
    "a worker died while it trained [3, 4]; tried again",
    "dynamo-dist report runs/mine  its page",
)


def command(code, **streams):
    return subprocess.Popen([sys.executable, "-c", code], text=True, stdout=subprocess.PIPE, **streams)


def test_in_a_pipe_there_are_lines_without_colours_and_bars():
    with command(CODE, stderr=subprocess.PIPE, env={**os.environ, "FORCE_COLOR": "1"}) as process:
        out, told = process.communicate(timeout=60)
    assert process.returncode == 0 and out == "result.json\n"
    assert told.isascii() and "\x1b" not in told and "\r" not in told
    lines = told.splitlines()
    assert all(re.match(r"\[ +\d+\.\ds\] ", line) for line in lines[:7])
    for words in SAID:
        assert sum(line.endswith(words) for line in lines) == 1
    assert lines[-4:] == ["  networks  4", "  accuracy  0.9", "next", f"  {SAID[2]}"]


def test_on_a_terminal_there_is_one_line_with_a_bar():
    shown, out, status = on_a_terminal([sys.executable, "-c", CODE], os.environ)
    assert status == 0 and out == "result.json\n"
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert "\u2501" * 10 in plain and plain != shown  # the bar, and codes that write over it
    for words in SAID:
        assert words in plain
    # What is said in between stays; of the live line nothing does.
    assert len(re.findall(r"\[ +\d+\.\ds\] ", plain)) == 1
    assert shown.rindex("\x1b[2K") < shown.rindex("population in runs/mine")


def test_a_terminal_that_knows_no_codes_gets_lines():
    shown, _, status = on_a_terminal([sys.executable, "-c", CODE], os.environ, kind="dumb")
    assert status == 0
    assert "\x1b" not in shown and "\u2501" not in shown and SAID[0] in shown


@pytest.fixture
def recordings(tmp_path):
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(100, 5, 2)).astype("float32")
    (tmp_path / "recordings").mkdir()
    np.save(tmp_path / "recordings" / "inputs.npy", inputs)
    np.save(tmp_path / "recordings" / "answer.npy", (inputs.sum(axis=(1, 2)) > 0).astype("int64"))
    group = 'name = "a"\nnetworks = 2\narchitecture = {family = "recurrent", cell = "gru", hidden = 4}\nepochs = 1\nbatch = 16\nlearning_rate = 1e-2\n'
    (tmp_path / "groups.toml").write_text(f"[[group]]\n{group}")
    return tmp_path


def test_the_end_says_what_to_type_next_and_quiet_says_nothing(recordings, capsys, monkeypatch):
    monkeypatch.chdir(recordings)
    train = ["train-population", "groups.toml", "--data", "recordings", "--out", "a b", "--workers", "0"]
    assert main(train) == 0
    captured = capsys.readouterr()
    assert captured.out == "a b/result.json\n"
    mean = json.loads((recordings / "a b" / "result.json").read_text())["accuracy"]["a"]
    assert f"accuracy {mean:.4f} on the test part" in captured.err
    # The line can be pasted into a shell.
    assert "dynamo-dist embed 'a b/population' --out 'a b-meta'" in captured.err
    embed = ["embed", "a b/population", "--out", "a b-meta", "--workers", "0", "--set", "steps=2", "--set", "dimensions=1"]
    assert main([*embed, "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "" and captured.out == "a b-meta/result.json\n"
    assert main([*embed, "--overwrite"]) == 0  # and the next one speaks again
    assert "dynamo-dist analyze 'a b-meta' --all" in capsys.readouterr().err
    assert main([*embed, "--quiet"]) == 2
    assert "already holds a run of embed" in capsys.readouterr().err
