"""A command on a terminal, which the tests of both halves read."""

import os
import pty
import subprocess


def on_a_terminal(command, environment, kind="xterm-256color"):
    """What a command shows on a terminal, its standard output, which is a pipe, and its status."""
    ours, theirs = pty.openpty()
    own = {**environment, "TERM": kind, "COLUMNS": "100"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, text=True, env=own) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            shown += part
        out = process.stdout.read()
    os.close(ours)
    return shown.decode(), out, process.returncode
