"""What can be told of files of weights without torch: kinds, checksums, and those of a run."""

import hashlib
import os
from io import BufferedRandom, BytesIO
from pathlib import Path
from zipfile import BadZipFile, ZipFile, is_zipfile

from ccrop_pipeline.errors import ModelError, stand_in
from ccrop_pipeline.recipes.plan import checkpoint_file

NEWEST = "checkpoint.pt"
# In front of the checksum, as the comment of a zip archive, which torch and others pass over.
_SEAL = b"ccrop sha256 "
_DIGITS = 64


def expect_whole(path: Path) -> None:
    """Refuse what can be told to be no whole file of weights.

    Args:
        path: A file, or the folder of a run; a folder of safetensors is not looked into.

    Raises:
        ModelError: If it is damaged, cut short, empty or no file. Of the newest checkpoint of a
            run, the message names the one before.
    """
    if path.is_dir() and any(path.glob("*.safetensors*")):
        return
    file = path / NEWEST if path.is_dir() else path
    expect_newest(file)
    try:
        kind_of_file(file)
        if is_intact(file) is False:
            raise damaged(file)
        if _is_cut_short(file):
            raise ModelError(f"{file} is empty or cut short. Copy or download it again.")
    except ModelError as error:
        raise ModelError(f"{error}{before(file)}") from error


def expect_one_intact(run: Path) -> None:
    """Refuse a run none of whose checkpoints has the bytes that its checksum is of.

    Raises:
        ModelError: If it has checkpoints, and all are damaged.
    """
    files = [file for file in (run / NEWEST, *earlier_checkpoints(run)) if file.exists()]
    if files and not any(map(is_intact, files)):
        raise ModelError(
            f"{damaged(files[0])} There is none before it that is intact: start afresh with "
            "`overwrite`."
        )


def _is_cut_short(file: Path) -> bool:
    size = file.stat().st_size
    with file.open("rb") as opened:
        head = opened.read(8)
    if file.suffix == ".safetensors":  # which begins with the length of its header
        return size < 8 + int.from_bytes(head, "little")
    return size == 0 or (head.startswith(b"PK\3\4") and not is_zipfile(file))


def kind_of_file(path: Path) -> str:
    """Tell `torchscript`, `export`, `safetensors` or `pickle`, by content where it can.

    Raises:
        ModelError: If there is no such file, or another thing in its place.
    """
    if not path.is_file():  # a pipe would have to be waited for
        raise ModelError(f"there is no file of weights at {path}.")
    if instead := stand_in(path):
        raise ModelError(f"{path} holds no weights: {instead}.")
    if path.suffix == ".safetensors":
        return "safetensors"
    if is_zipfile(path):
        try:
            names = ZipFile(path).namelist()
        except BadZipFile:
            return "pickle"
        if path.suffix == ".pt2" or any(name.endswith("archive_format") for name in names):
            return "export"
        if any(Path(name).name == "constants.pkl" for name in names):
            return "torchscript"
    return "pickle"


def seal(file: BufferedRandom | BytesIO) -> None:
    """Add the SHA-256 of its bytes to a file of `torch.save`, which is a zip archive.

    The archive ends with the length of its comment (2 bytes, little-endian) and the comment
    (APPNOTE.TXT 4.3.16), which becomes `ccrop sha256 ` and the digest in hex of all bytes before.

    Args:
        file: The whole file, open to read and write.
    """
    file.seek(-2, os.SEEK_END)
    file.write((len(_SEAL) + _DIGITS).to_bytes(2, "little") + _SEAL)
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    file.seek(0, os.SEEK_END)
    file.write(digest.encode())


def is_intact(path: Path) -> bool | None:
    """Tell whether a file has the bytes that its checksum is of; None: it carries none."""
    if not path.is_file():
        return False
    left = path.stat().st_size - _DIGITS
    with path.open("rb") as file:
        file.seek(max(0, left - len(_SEAL)))
        if file.read(len(_SEAL)) != _SEAL:
            return None
        found, digest = file.read(), hashlib.sha256()
        file.seek(0)
        while left and (block := file.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
    return found == digest.hexdigest().encode()


def damaged(file: Path) -> ModelError:
    """Return the error for a file that has not the bytes that its checksum is of."""
    return ModelError(f"{file} is damaged: its bytes are not those that its checksum is of.")


def expect_newest(file: Path) -> None:
    """Refuse to take a run that has lost its newest checkpoint for one that has not trained.

    Args:
        file: Where a checkpoint is looked for.

    Raises:
        ModelError: If it is missing and there are earlier ones, of which the newest is named.
    """
    if file.name == NEWEST and not file.exists() and earlier_checkpoints(file.parent):
        raise ModelError(f"{file} is missing.{before(file)}")


def before(file: Path) -> str:
    """Return a sentence with the newest intact checkpoint before the newest of a run, or ""."""
    if file.name == NEWEST:
        for earlier in earlier_checkpoints(file.parent):
            if is_intact(earlier):
                return f" The one before is {earlier}."
    return ""


def earlier_checkpoints(run: Path) -> list[Path]:
    """Return the checkpoints of a run that boxes were computed from, the latest first."""
    files = (run / checkpoint_file(0)).parent.glob("epoch-*.pt")
    return sorted(files, key=lambda file: (len(file.name), file.name), reverse=True)
