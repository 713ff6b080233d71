"""Reads, writes and lists whole objects through pyarrow.fs; 5xx answers and timeouts are retried by its clients.

An object is named by its address, `s3://BUCKET/KEY` or `gs://BUCKET/KEY`. It appears whole or not at all: a client that
dies while it sends one leaves nothing under the name. Credentials, region and endpoint come from where the AWS and
Google tools look for them (environment variables, their configuration files, the machine's role).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellsemi.configs.errors import RunError
from cellsemi.rounds.storage.memory import ABSENT_S, Answers, Contents, around

if TYPE_CHECKING:
    from pyarrow import NativeFile
    from pyarrow.fs import FileInfo, FileSystem

SCHEMES = ("s3", "gs")
ATTEMPTS = 12  # of one request: with growing pauses, half a minute at least
CONNECT_S = 5.0
CHUNK = 2**23  # bytes that a download reads at once
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")  # as the AWS tools name them, the first that is set
REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
EMULATOR = "STORAGE_EMULATOR_HOST"  # an endpoint in place of Google's, as its tools name it


_taken: dict[str, str] = {}  # prefixes of addresses that this process may no longer write, and why


@dataclass(frozen=True, slots=True)
class Entry:
    """What a listing says of an object, or of a folder; `modified` is None of a folder, else in seconds since 1970."""

    address: str
    is_file: bool
    size: int
    modified: float | None


@dataclass(frozen=True, slots=True)
class Head:
    """What the store says of one object: bytes, seconds since 1970, and what differs between any two contents."""

    size: int
    modified: float
    mark: str


_heads: Answers[Head] = Answers()
_absent: Answers[bool] = Answers(ABSENT_S)  # True for objects that are not there
_folders: Answers[bool] = Answers()  # True for those in which there is something
_lists: Answers[tuple[Entry, ...]] = Answers()
_contents = Contents()


def is_address(text: str) -> bool:
    """Whether a text names an object or a folder of objects."""
    return text.partition("://")[0] in SCHEMES and "://" in text


def head(address: str) -> Head | None:
    """What is known of an object without reading it; None where there is none. One request, or none (`memory`)."""
    if (known := _heads.get(address)) is not None:
        return known
    if _absent.get(address):
        return None
    with _explained(address):
        system, key = _at(address)
        try:
            return _noted(address, system.open_input_file(key))
        except FileNotFoundError:
            _absent.note(address, True)
            return None


def _noted(address: str, file: NativeFile) -> Head:
    """What an open object says of itself."""
    about = {_text(name).lower(): _text(value) for name, value in (file.metadata() or {}).items()}
    modified = about.get("last-modified")
    system, key = _at(address)
    seconds = _seconds(modified) if modified else _modified(system.get_file_info(key))
    mark = hashlib.sha256(repr(sorted(about.items())).encode()).hexdigest()
    for folder in itertools.islice(around(address), 1, None):
        _folders.note(folder, True)
    return _heads.note(address, Head(int(about.get("content-length") or file.size()), seconds or 0.0, mark))


def kind(address: str) -> str:
    """ "file", "folder" (there are objects below it), or ""."""
    from pyarrow.fs import FileType

    if _heads.get(address) is not None:
        return "file"
    if _folders.get(address):
        return "folder"
    with _explained(address):
        system, key = _at(address)
        found = system.get_file_info(key).type
    return {FileType.File: "file", FileType.Directory: "folder"}.get(found, "")


def get(address: str) -> bytes:
    """The content of an object; FileNotFoundError where there is none."""
    known = _heads.get(address)
    content = None if known is None else _contents.get(address, known.mark)
    if content is not None:
        return content
    with _explained(address):
        system, key = _at(address)
        with system.open_input_stream(key) as stream:
            found = _noted(address, stream)
            content = _contents.get(address, found.mark)
            return _contents.keep(address, found.mark, stream.read()) if content is None else content


def download(address: str, target: Path) -> None:
    """Write the content of an object into a local file."""
    with _explained(address):
        system, key = _at(address)
        with system.open_input_stream(key) as stream, target.open("wb") as file:
            while chunk := stream.read(CHUNK):
                file.write(chunk)


def put(address: str, content: bytes) -> None:
    """Write an object whole. RunError where another driver has taken the run over."""
    _whole(address, lambda: content)


def put_file(address: str, source: Path) -> None:
    """Write a local file as an object, whole."""
    import pyarrow as pa

    _whole(address, lambda: pa.memory_map(str(source)).read_buffer() if source.stat().st_size else b"")


def list_folder(address: str, recursive: bool = False, fresh: bool = False) -> Sequence[Entry]:
    """What lies in a folder, or below it, sorted; () where nothing does. `fresh`: as it is now (`memory`)."""
    from pyarrow.fs import FileSelector, FileType

    asked = f"{address}/**" if recursive else address
    if not fresh and (known := _lists.get(asked)) is not None:
        return known
    scheme = address.partition("://")[0]
    with _explained(address):
        system, key = _at(address)
        found = system.get_file_info(FileSelector(key, recursive=recursive, allow_not_found=True))
    entries = [
        Entry(f"{scheme}://{each.path}", each.type == FileType.File, each.size or 0, _modified(each)) for each in found
    ]
    return _lists.note(asked, tuple(sorted(entries, key=lambda entry: entry.address)))


def delete(address: str) -> None:
    """Remove an object; FileNotFoundError where there is none."""
    _check_owned(address)
    with _explained(address), _changed(address):
        system, key = _at(address)
        system.delete_file(key)


def delete_folder(address: str) -> None:
    """Remove all objects below a folder; FileNotFoundError where there are none."""
    _check_owned(address)
    with _explained(address), _changed(address):
        system, key = _at(address)
        system.delete_dir(key)


def copy(source: str, target: str) -> None:
    """Copy an object; within a bucket its bytes stay in the store."""
    _check_owned(target)
    with _explained(source), _changed(target):
        (system, key), (other, place) = _at(source), _at(target)
        if system is other:
            system.copy_file(key, place)
            return
    put(target, get(source))


def others_wrote() -> None:
    """Other processes may have written objects or removed some: what was remembered holds no more."""
    for answers in (_heads, _absent, _folders, _lists):
        answers.forget_below("")


def take_away(prefix: str, why: str) -> None:
    """From now on this process writes nothing below an address: it gets a RunError that says `why`."""
    _taken[prefix] = why


def give_back(prefix: str) -> None:
    """Allow it again."""
    _taken.pop(prefix, None)


def _check_owned(address: str) -> None:
    for prefix, why in _taken.items():
        if address.startswith(prefix):
            raise RunError(why)


def _whole(address: str, content: Callable[[], Any]) -> None:
    """Send an object. In a thread of its own where a signal could stop it between opening and closing.

    A stream that is given up half-way closes itself, and what was sent until then would stand under the name.
    """
    _check_owned(address)
    failed: list[BaseException] = []

    def send() -> None:
        try:
            with _explained(address), _changed(address):
                system, key = _at(address)
                with system.open_output_stream(key) as stream:
                    stream.write(content())
        except (OSError, RunError) as error:
            failed.append(error)

    if threading.current_thread() is threading.main_thread() and threading.main_thread().is_alive():
        try:
            thread = threading.Thread(target=send, name="put")
            thread.start()
            thread.join()
        except RuntimeError:  # the interpreter ends, and starts no thread any more
            send()
    else:
        send()
    if failed:
        raise failed[0]


@contextlib.contextmanager
def _changed(address: str) -> Iterator[None]:
    """Forget what was known of an object that is written or removed inside, whatever comes of it."""
    _forget(address)
    try:
        yield
    finally:
        _forget(address)


def _forget(address: str) -> None:
    _heads.forget_below(address)
    _absent.forget_below(address)
    _lists.forget_below(address)
    for each in around(address):
        _folders.forget(each)
        _lists.forget(each)
        _lists.forget(f"{each}/**")


@contextlib.contextmanager
def _explained(address: str) -> Iterator[None]:
    """Turn what the store answers into a RunError with the remedy; an object that is not there stays what it is."""
    import pyarrow as pa

    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        why = " ".join(str(error).split())
        raise RunError(
            f"{address}: the object store did not do it, also not in {ATTEMPTS} attempts ({why}). See that the bucket "
            "exists and that this machine can reach it, and may (the usual credentials and AWS_REGION, "
            "AWS_ENDPOINT_URL; docs/storage.md); nothing was half-written: run the same command again"
        ) from error


def _at(address: str) -> tuple[FileSystem, str]:
    """The file system of an address, and `bucket/key`."""
    scheme, _, key = address.partition("://")
    key = key.strip("/")
    return file_system(scheme, key.partition("/")[0]), key


@functools.lru_cache(maxsize=16)
def file_system(scheme: str, bucket: str) -> FileSystem:
    """The client for a bucket, made once with what the environment says then."""
    return _google() if scheme == "gs" else _s3(_set(REGIONS) or _region(bucket))


def _s3(region: str) -> FileSystem:
    from pyarrow.fs import AwsDefaultS3RetryStrategy, S3FileSystem

    protocol, _, host = _set(ENDPOINTS).rpartition("://")
    more = {"tls_ca_file_path": os.environ["AWS_CA_BUNDLE"]} if os.environ.get("AWS_CA_BUNDLE") else {}
    return S3FileSystem(
        region=region,
        scheme=protocol or "https",
        endpoint_override=host or None,
        connect_timeout=CONNECT_S,
        allow_delayed_open=True,  # a small object is one request
        retry_strategy=AwsDefaultS3RetryStrategy(max_attempts=ATTEMPTS),
        **more,
    )


def _google() -> FileSystem:
    from pyarrow.fs import GcsFileSystem

    protocol, _, host = os.environ.get(EMULATOR, "").rpartition("://")
    if host:
        return GcsFileSystem(anonymous=True, scheme=protocol or "http", endpoint_override=host)
    return GcsFileSystem(retry_time_limit=timedelta(minutes=1))


def _region(bucket: str) -> str:
    """Where a bucket lies; asked only where the environment does not say it, and of Amazon only."""
    from pyarrow.fs import resolve_s3_region

    return "us-east-1" if _set(ENDPOINTS) else str(resolve_s3_region(bucket))


def _set(names: tuple[str, ...]) -> str:
    return next((os.environ[name] for name in names if os.environ.get(name)), "")


def _modified(info: FileInfo) -> float | None:
    return None if info.mtime is None else info.mtime.timestamp()


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
