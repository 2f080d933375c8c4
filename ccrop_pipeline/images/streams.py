"""The bytes of a tar as they arrive: from an object store, a web server or a command."""

import io
import os
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

from ccrop_pipeline.base.addresses import PIPE, file_system
from ccrop_pipeline.errors import SourceError

_BUFFER = 1 << 20  # bytes
# Of a web server: for a connection, and from one piece of a tar to the next.
_TIMEOUT = 60.0  # seconds
# Before each new try to go on where a connection broke, if none before it brought a byte.
_PAUSES = (1.0, 2.0, 4.0, 8.0)  # seconds
_TRY_AGAIN = (408, 425, 429)
# Whatever ends us closes our end of the pipe that is the shell's stdin; then a process beside the
# command, of the same group, ends the group. The command itself reads nothing.
_GUARDED = (
    "exec 3<&0 </dev/null; { read -r _ <&3; kill -9 0; } >/dev/null 2>&1 & "
    'exec 3<&-; exec /bin/sh -c "$1"'
)


@contextmanager
def opened(url: str, *, command: bool) -> Iterator[IO[bytes]]:
    """Open what is at an address, or the output of a command, to read it once through.

    Raises:
        SourceError: If a command that was read to its end fails, or a file changes meanwhile.
    """
    with _output(url) if command else _object(url) as stream:
        yield stream


@contextmanager
def _object(url: str) -> Iterator[IO[bytes]]:
    files, path = file_system(url)
    raw: Any = _Download(files, path) if "http" in files.protocol else files.open(path, "rb")
    with raw, io.BufferedReader(raw, _BUFFER) as stream:
        yield stream


class _Download(io.RawIOBase):
    """A file of a web server, which goes on at the byte reached where a connection breaks.

    One request asks for all that is left, since not every server gives parts; one that gives none
    is read again from the beginning.
    """

    def __init__(self, files: Any, path: str) -> None:
        self._files, self._path = files, path
        self._connection: Any = None
        self._at = 0
        self._version: tuple[str | None, str | None] | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        pauses = iter(_PAUSES)
        while True:
            try:
                self._connection = self._connection or self._connect()
                data = self._connection.read(len(buffer))
                break
            except Exception as error:
                data = self._arrived(len(buffer))
                self._disconnect()
                if data:
                    break
                pause = next(pauses, None)
                if pause is None or not _may_pass(error):
                    raise
                time.sleep(pause)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _connect(self) -> Any:
        import aiohttp

        # Compressed on the way, its bytes would not be those of the file.
        headers = {**self._files.kwargs.get("headers", {}), "Accept-Encoding": "identity"}
        if self._at:
            headers["Range"] = f"bytes={self._at}-"
        connection = self._files.open(
            self._path,
            "rb",
            block_size=0,  # one request, as said above
            size=1,  # anything, lest it be asked for first
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_TIMEOUT, sock_read=_TIMEOUT),
        )
        found = connection.r.headers
        part = connection.r.status == 206
        size = found.get("Content-Range", "").rpartition("/")[2] if part else None
        version = found.get("ETag"), size or found.get("Content-Length")
        if self._version not in (None, version):
            raise SourceError(f"{self._path} changed while it was read. Run again.")
        self._version = version
        to_skip = 0 if part else self._at
        while to_skip and (data := connection.read(min(to_skip, _BUFFER))):
            to_skip -= len(data)
        return connection

    def _arrived(self, most: int) -> bytes:
        """Return what had arrived when a connection broke, which aiohttp keeps and hides."""
        content = getattr(getattr(self._connection, "r", None), "content", None)
        take = getattr(content, "_read_nowait", None)
        return take(most) if take else b""

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def close(self) -> None:
        self._disconnect()
        super().close()


def _may_pass(error: Exception) -> bool:
    import aiohttp

    if isinstance(error, aiohttp.ClientResponseError):
        return error.status >= 500 or error.status in _TRY_AGAIN
    lost = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError)
    return isinstance(error, lost)


@contextmanager
def _output(url: str) -> Iterator[IO[bytes]]:
    command = url.removeprefix(PIPE)
    watched, ours = os.pipe()
    try:
        # In a session of its own, so that all processes of the command can be ended together.
        process = subprocess.Popen(
            ["/bin/sh", "-c", _GUARDED, "sh", command],
            stdin=watched,
            stdout=subprocess.PIPE,
            bufsize=_BUFFER,
            start_new_session=True,
        )
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(watched)
    assert process.stdout is not None
    with process.stdout as stream:
        try:
            try:
                yield stream
            except tarfile.TarError:
                # The output of a command that fails is cut off: then it is to blame.
                if not stream.read(1):
                    _expect_success(process, url)
                raise
            # A command whose output is not read to the end would fail for that.
            while stream.read(_BUFFER):
                pass
            _expect_success(process, url)
        finally:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            os.close(ours)


def _expect_success(process: "subprocess.Popen[bytes]", url: str) -> None:
    if status := process.wait():
        raise SourceError(
            f"the command of {url} failed with exit status {status}, so images may be missing. "
            "Run it by itself to see why."
        )
