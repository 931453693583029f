"""Atomic commits: a folder is there completely and verified, or not at all; a journal line likewise.

A committed folder holds `manifest.json` with the size and SHA-256 of every other file in it. It is written under a temporary
name, synced, the manifest last, and renamed; on an object store, where nothing is renamed, it is there when its manifest is, the last
object that is written. Readers accept only what verifies.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from dynamo_dist import storage
from dynamo_dist.errors import InputError

MANIFEST = "manifest.json"


class Corrupted(InputError):
    """A committed file is missing, has another size, or another content than when it was committed."""


@contextlib.contextmanager
def understood(path: Path) -> Iterator[None]:
    """Raise `Corrupted` that names the file for whatever reading it raises: one that comes from elsewhere may hold anything."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # of absurd lengths MemoryError, of deep nesting RecursionError
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise Corrupted(f"{storage.address(path)} is damaged, or this program did not write it ({reason})") from None


def check_name(path: Path, name: str) -> None:
    """Raise `Corrupted` unless a name that `path` holds is that of a file beside it: no path leads out of the folder."""
    if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise Corrupted(f"{storage.address(path)} names {name!r}, which is no file of its folder: this program did not write it")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def temporary_beside(path: Path) -> Path:
    """A fresh temporary folder that one rename turns into `path` (same file system, so the rename is atomic)."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    temporary.mkdir(parents=True)
    return temporary


def entry(file: Path) -> dict[str, Any]:
    """What a manifest says of a file, which is synced."""
    _sync(file)
    return {"bytes": file.stat().st_size, "sha256": sha256(file)}


def seal(temporary: Path, path: Path, others: Mapping[str, dict[str, Any]] = MappingProxyType({})) -> None:
    """Commit the files that were written to `temporary` as the folder `path`: sync, manifest last, rename. `others`: entries of files that
    lie on the storage already.

    Where `path` was committed meanwhile (by a retry of the same work), that one stays: the work is identical by name.
    """
    files = {file.name: entry(file) for file in sorted(temporary.iterdir())}
    write_json(temporary / MANIFEST, {"files": {**files, **others}})
    _sync(temporary)
    if storage.mirrored(path):
        storage.publish(path, source=temporary, last=MANIFEST)
        discard(path)  # what counts is what lies on the storage now
    try:
        os.rename(temporary, path)
    except OSError:
        if not (path / MANIFEST).exists():
            raise
        shutil.rmtree(temporary)
    _sync(path.parent)


def discard(path: Path) -> None:
    """Remove a committed folder whole or not at all: under a temporary name it is none any more."""
    leftover = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    with contextlib.suppress(FileNotFoundError):
        path.rename(leftover)
    shutil.rmtree(leftover, ignore_errors=True)


def commit_folder(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write(folder)` fill a temporary folder and commit it as `path`. Nothing is left behind when it fails."""
    temporary = temporary_beside(path)
    try:
        write(temporary)
        seal(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def damage(path: Path) -> str | None:
    """What is wrong with a committed folder, naming the file; None when every file is what was committed."""
    manifest = path / MANIFEST
    if not manifest.exists():
        return f"{storage.address(path)} has no {MANIFEST}: it was never committed, or the manifest was removed"
    try:
        with understood(manifest):
            for name, entry in json.loads(manifest.read_text())["files"].items():
                check_name(manifest, name)
                file = path / name
                if not file.exists():
                    return f"{storage.address(file)} is missing although it was committed"
                if file.stat().st_size != entry["bytes"] or sha256(file) != entry["sha256"]:
                    return f"{storage.address(file)} is not what was committed (size or SHA-256 differ)"
    except Corrupted as wrong:
        return str(wrong)
    return None


def verify_folder(path: Path) -> None:
    """Raise `Corrupted` unless every file of the committed folder is what was committed."""
    wrong = damage(path)
    if wrong:
        raise Corrupted(f"{wrong}; continue the run with --resume to make it again")


def write_json(path: Path, value: object) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of one."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    with open(temporary, "w") as file:
        json.dump(value, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    storage.publish(path)


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Append one JSON line and sync. Writers take turns by a lock; the half line of a writer that died is removed first."""
    line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
    with open(path, "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = _end_of_last_line(file)
        if end != file.seek(0, os.SEEK_END):
            file.truncate(end)
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def _end_of_last_line(file: BinaryIO) -> int:
    """Offset after the last newline; 0 when there is none. Reads backwards: journals grow long."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 4096)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a journal. A torn last line is what a killed writer leaves and is ignored; a bad line before it is an error."""
    if not path.exists():
        return []
    lines = [line for line in path.read_bytes().split(b"\n") if line]
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except ValueError:
            if number == len(lines):
                break
            raise Corrupted(
                f"{path}, line {number} is not JSON: the journal was damaged; restore it, or start over with --overwrite"
            ) from None
    return records
