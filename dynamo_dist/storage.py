"""Runs on storage that is given by a URI, such as `s3://bucket/runs/mine`: any that pyarrow's filesystems read.

A folder there has a mirror on each machine, below the user's cache folder. Everything reads and writes the mirror: `fetch` brings what
differs, `publish` takes there what was written here. The storage is the truth; a mirror may be removed at any time. What travels between
machines is the URI, `address(path)`, and every machine finds its own mirror with `local(URI)`. Names that begin with a dot stay on their
machine: what is temporary, caches.

Object stores rename nothing and append nothing. What makes a folder committed there is its manifest, written last; a journal is a folder
of objects, one a line. A path that is in no mirror is an ordinary one: its functions cost nothing then.
"""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import pyarrow as pa
from pyarrow import fs

from dynamo_dist.errors import InputError

# Transfers at the same time: of small objects the time is that of the round trips.
_TRANSFERS = 16
# Only of the machine's own disk.
_OWN_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class StorageFailed(InputError):
    """The storage cannot be reached, refuses, or has no such bucket. What was committed there stays."""


@dataclass(frozen=True)
class _Store:
    """A bucket and the folder that mirrors it."""

    scheme: str
    bucket: str
    query: str
    mirror: Path

    def uri(self, path: Path) -> str:
        name = "" if path == self.mirror else f"/{quote(path.relative_to(self.mirror).as_posix())}"
        return f"{self.scheme}://{self.bucket}{name}{self.query and '?'}{self.query}"

    @cached_property
    def _filesystem(self) -> tuple[fs.FileSystem, str]:
        uri = self.uri(self.mirror)
        if self.scheme == "s3":  # a small object is one request, not the three of an upload in parts
            uri += f"{'&' if self.query else '?'}allow_delayed_open=true"
        try:
            self.mirror.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.mirror}, the mirror, cannot be made ({error.strerror}): let XDG_CACHE_HOME name a local folder") from None
        with self.reaching(self.mirror):
            found: tuple[fs.FileSystem, str] = fs.FileSystem.from_uri(uri)
            return found

    @property
    def filesystem(self) -> fs.FileSystem:
        return self._filesystem[0]

    def name(self, path: Path) -> str:
        """The path's name in `filesystem`."""
        return "/".join([self._filesystem[1].rstrip("/"), *path.relative_to(self.mirror).parts])

    def path(self, name: str) -> Path:
        return self.mirror / name.removeprefix(self._filesystem[1]).strip("/")

    @contextlib.contextmanager
    def reaching(self, path: Path) -> Iterator[None]:
        """Raise `StorageFailed` for what the storage answers while it is asked for `path`."""
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            if getattr(error, "errno", None) in _OWN_DISK:
                raise
            raise StorageFailed(f"{self.uri(path)}: {_reason(error)}") from None

    def info(self, path: Path) -> fs.FileInfo:
        with self.reaching(path):
            found = self.filesystem.get_file_info(self.name(path))
            # A bucket that is not there and a file that is not there look the same from below.
            if found.type == fs.FileType.NotFound and self.filesystem.get_file_info(self.name(self.mirror)).type == fs.FileType.NotFound:
                raise StorageFailed(f"{self.uri(path)}: there is no bucket {self.bucket!r}: make it first, or correct the URI")
            return found

    def files(self, path: Path, *, recursive: bool) -> list[fs.FileInfo]:
        """The files in a folder."""
        with self.reaching(path):
            found = self.filesystem.get_file_info(fs.FileSelector(self.name(path), recursive=recursive, allow_not_found=True))
        return [info for info in found if info.type == fs.FileType.File]

    def download(self, info: fs.FileInfo) -> None:
        """Bring a file into the mirror, with the storage's time of its last change: that tells later whether it is still the same."""
        path = self.path(info.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
        try:
            with self.reaching(path):
                try:
                    fs.copy_files(info.path, str(temporary), source_filesystem=self.filesystem, destination_filesystem=fs.LocalFileSystem())
                except FileNotFoundError:  # removed since it was listed
                    return
            _stamp(temporary, info)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def upload(self, source: Path, path: Path) -> None:
        with self.reaching(path):
            fs.copy_files(str(source), self.name(path), source_filesystem=fs.LocalFileSystem(), destination_filesystem=self.filesystem)
        _stamp(source, self.info(path))


_REASONS = {
    "NO_SUCH_BUCKET": "there is no such bucket: make it first, or correct the URI",
    "ACCESS_DENIED": "access is refused: credentials come from the environment, for S3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile "
    "or the machine's role",
}
_REASONS |= dict.fromkeys(("INVALID_ACCESS_KEY_ID", "INVALID_CLIENT_TOKEN_ID", "SIGNATURE_DOES_NOT_MATCH"), _REASONS["ACCESS_DENIED"])


def _reason(error: Exception) -> str:
    """What went wrong, as users can use it."""
    text = " ".join(str(error).split())
    if isinstance(error, pa.ArrowInvalid):
        return f"this is no URI that pyarrow reads ({text}): expected one such as s3://BUCKET/FOLDER"
    aws = re.search(r"AWS Error (\w+) during \w+ operation: (.*)", text)
    if aws and aws[1] in _REASONS:
        return _REASONS[aws[1]]
    said = re.sub(r" \(Request ID: [^)]*\)", "", f"{aws[1]}: {aws[2]}" if aws else text)
    return f"the storage failed ({said[:300]}); what was committed there stays: continue with --resume"


def _stamp(path: Path, info: fs.FileInfo) -> None:
    """In whole seconds: a storage tells no more of a single object."""
    if info.mtime_ns is not None:
        os.utime(path, (info.mtime_ns // 10**9,) * 2)


def _is_current(path: Path, info: fs.FileInfo) -> bool:
    try:
        here = path.stat()
    except OSError:
        return False
    return info.mtime_ns is not None and here.st_size == info.size and int(here.st_mtime) == info.mtime_ns // 10**9


_stores: dict[Path, _Store] = {}


def local(where: str | Path) -> Path:
    """The folder to work in: the mirror of a URI, any other path as it is. Nothing is asked of the storage yet.

    A URI is one of `pyarrow.fs.FileSystem.from_uri`, such as `s3://bucket/prefix?region=eu-north-1` or
    `s3://bucket/prefix?scheme=http&endpoint_override=localhost:9000`. Raises `InputError` for one with credentials in it, and for one that
    became a `Path`, which loses a slash.
    """
    text = str(where)
    if isinstance(where, Path) and re.match(r"[A-Za-z][A-Za-z0-9+]+:/[^/]", text):
        raise InputError(f"{text}: give a URI as text: a Path loses its second slash")
    if not re.match(r"[A-Za-z][A-Za-z0-9+]+://", text):
        return Path(where)
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise InputError(f"{text}: this is no URI ({error}): expected one such as s3://BUCKET/FOLDER") from None
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    secret = [name for name, _ in parse_qsl(parts.query) if re.search("key|secret|token|password|credential", name)]
    if parts.password is not None or secret:
        raise InputError(f"{shown}: no credentials in a URI, which ends up in files and messages: give them in the environment")
    names = [unquote(name) for name in parts.path.strip("/").split("/")] if parts.path.strip("/") else []
    if parts.scheme == "file":
        if parts.netloc or not names:
            raise InputError(f"{text}: expected file:///FOLDER, or the folder alone")
        return Path("/", *names)
    if not parts.netloc or parts.fragment or any(not name or name.startswith(".") or "/" in name or "\0" in name for name in names):
        raise InputError(
            f"{shown}: expected {parts.scheme}://BUCKET/FOLDER, without '#' and without names that are empty or begin with a dot"
        )
    # Another endpoint may have a bucket of the same name.
    which = f"-{hashlib.sha256(parts.query.encode()).hexdigest()[:8]}" if parts.query else ""
    mirror = _cache() / f"{parts.scheme}{which}" / parts.netloc
    _stores.setdefault(mirror, _Store(parts.scheme, parts.netloc, parts.query, mirror))
    return mirror.joinpath(*names)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()).resolve() / "dynamo-dist"


def _store_of(path: Path) -> _Store | None:
    """The store that `path` mirrors; None for an ordinary path, and for one of a mirror that stays on its machine."""
    for mirror, store in _stores.items():
        if path.is_relative_to(mirror):
            return None if _stays(path.relative_to(mirror)) else store
    return None


def _stays(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def mirrored(path: Path) -> bool:
    """Whether a path is that of a folder or file on a storage."""
    return _store_of(path) is not None


def address(path: Path) -> str:
    """What names a path on every machine: the URI of a mirrored one, the path itself of any other."""
    store = _store_of(path)
    return store.uri(path) if store else str(path)


def together(one: Path, other: Path) -> bool:
    """Whether two paths lie on one storage, or both on none."""
    return _store_of(one) is _store_of(other)


def place(path: Path) -> tuple[fs.FileSystem | None, str]:
    """How another library reaches a path: a filesystem and the path's name in it; None stands for the machine's own."""
    store = _store_of(path)
    return (store.filesystem, store.name(path)) if store else (None, str(path))


def exists(path: Path) -> bool:
    """Whether a file is there: on the storage, for a mirrored path."""
    store = _store_of(path)
    return store.info(path).type == fs.FileType.File if store else path.exists()


def names(path: Path) -> list[str]:
    """The names of the files in a folder, sorted; of none where there is no such folder."""
    store = _store_of(path)
    if store:
        return sorted(info.base_name for info in store.files(path, recursive=False))
    return sorted(entry.name for entry in path.iterdir() if entry.is_file()) if path.exists() else []


def is_empty(path: Path) -> bool:
    """Whether there is nothing in a folder, or no such folder."""
    store = _store_of(path)
    return not store.files(path, recursive=True) if store else not path.exists() or not any(path.iterdir())


def fetch(path: Path, name: str | None = None) -> None:
    """Make the mirror's file or folder what the storage has; of a folder, only the files called `name` where it is given.

    What is not on the storage (any more) is removed here, but what stays on its machine and what was written meanwhile.
    """
    store = _store_of(path)
    if store is None:
        return
    began = time.time() - 0.01  # the clock of file times is a tick behind
    found = store.info(path)
    infos = [found] if found.type == fs.FileType.File else store.files(path, recursive=True) if found.type == fs.FileType.Directory else []
    there = {store.path(info.path): info for info in infos}
    there = {file: info for file, info in there.items() if name in (None, file.name) and not _stays(file.relative_to(path))}
    _each(store.download, [info for file, info in there.items() if not _is_current(file, info)])
    for file in [path] if path.is_file() else list(path.rglob(name or "*")):
        with contextlib.suppress(FileNotFoundError):  # another process of this machine may fetch too
            if file not in there and file.is_file() and not _stays(file.relative_to(path)) and file.stat().st_ctime < began:
                file.unlink()


def _each(function: Callable[..., None], *arguments: Iterable[Any]) -> None:
    with ThreadPoolExecutor(_TRANSFERS) as pool:
        list(pool.map(function, *arguments))


def publish(path: Path, *, source: Path | None = None, last: str | None = None) -> None:
    """Take a file or folder of a mirror to the storage; `source`: where its files lie now, if not in `path`; `last`: name of the file that
    is written when all others are there."""
    store = _store_of(path)
    if store is None:
        return
    source = source or path
    if source.is_file():
        store.upload(source, path)
        return
    files = [file for file in sorted(source.rglob("*")) if file.is_file() and not _stays(file.relative_to(source))]
    for turn in (False, True):
        now = [file for file in files if (file == source / last if last else False) == turn]
        _each(store.upload, now, [path / file.relative_to(source) for file in now])


def remove(path: Path, *, first: str | None = None) -> None:
    """Remove a file or folder, from the storage too; `first`: name of the file without which the folder is no longer committed."""
    store = _store_of(path)
    if store:
        with store.reaching(path):
            if first and store.info(path / first).type == fs.FileType.File:
                store.filesystem.delete_file(store.name(path / first))
            found = store.info(path).type
            if found == fs.FileType.File:
                store.filesystem.delete_file(store.name(path))
            elif found == fs.FileType.Directory:
                store.filesystem.delete_dir(store.name(path))
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
