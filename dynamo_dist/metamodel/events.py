"""The record of meta-models as event files for TensorBoard, beside `progress.jsonl`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dynamo_dist.commit import read_lines
from dynamo_dist.errors import InputError
from dynamo_dist.metamodel.folder import PROGRESS

FILES = "events.out.tfevents.*"
TERMS = ("loss", "hidden", "output")


def points(line: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Name and value of every curve that a line of the record continues; the names are one for every place where curves are shown."""
    for term in TERMS:
        for part, name in (("training", term), ("held-out", f"held_out_{term}")):
            if name in line:
                yield f"{term}/{part}", line[name]


def summary_writer() -> Any:
    """The class that writes event files. Raises `InputError` where the package is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError(
            "--tensorboard: the package tensorboard is not installed: pip install 'dynamo-jordan[tensorboard]', or leave it out"
        ) from None
    return SummaryWriter


class EventFiles:
    """Event files of several meta-models, each in its folder: one point per line of the record and term.

    They are made from the record alone, by the one process that starts the training: `update` adds what was recorded since. A run that
    is continued takes back what it recorded after its last checkpoint; then, as at the start, the file is written anew, so no step has
    two points. What is written anew carries the time of that writing; steps are what to plot against. Use as a context manager.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._make: Any = summary_writer() if paths else None
        self._paths = paths
        self._writers: dict[Path, Any] = {}
        self._written: dict[Path, list[dict[str, Any]]] = {}

    def __enter__(self) -> "EventFiles":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.update()
        for writer in self._writers.values():
            writer.close()

    def update(self) -> None:
        """Write what was recorded since the last call."""
        for path in self._paths:
            lines = read_lines(path / PROGRESS)
            written = self._written.get(path, [])
            if not lines or lines == written:
                continue
            if path not in self._writers or lines[: len(written)] != written:
                self._start(path)
                written = []
            for line in lines[len(written) :]:
                self._add(path, line)
            self._writers[path].flush()
            self._written[path] = lines

    def _start(self, path: Path) -> None:
        if path in self._writers:
            self._writers[path].close()
        for file in path.glob(FILES):
            file.unlink()
        # A TensorBoard that is open has read the file that is gone: purge_step tells it to forget those points.
        self._writers[path] = self._make(str(path), purge_step=0)

    def _add(self, path: Path, line: dict[str, Any]) -> None:
        for name, value in points(line):
            self._writers[path].add_scalar(name, value, line["step"])
