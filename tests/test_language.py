"""What can be checked of the one language: messages, docstrings, types (ruff holds the rest)."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path.relative_to(ROOT)
    for room in ("ccrop_pipeline", "cli")
    for path in (ROOT / room).rglob("*.py")
)
# A sentence may begin with a name that is written with a capital letter.
NAMES = re.compile(
    r"[A-Z]{2}|Beta|ContrastiveCrop|DataLoader|ImageNet|Lightning|Parquet|Pillow|Python|Ray|"
    r"RandomResizedCrop|TensorBoard|TorchScript|WebDataset"
)
# Those that reach people as they are; others become a part of such a message.
KINDS = {
    "CcropError",
    "SettingError",
    "SourceError",
    "BoxSetError",
    "ModelError",
    "UnreadableImage",
}
# Flags of other programs, torchrun, SLURM and tar, may be named.
FLAG = re.compile(r"(?<![\w-])--(?!nproc|gpu-bind|array|dereference|hard-deref|help)[a-z]")


def text_of(node: ast.expr) -> str:
    """The text of a literal, with {} for what is filled in."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(text_of(part) for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return text_of(left) + text_of(right)
    return "{}"


def messages(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The messages of all errors that are raised, with their lines."""
    for node in ast.walk(tree):
        called = isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args
        if called and ast.unparse(node.exc.func) in KINDS:
            yield node.lineno, text_of(node.exc.args[0])


def docstrings(tree: ast.Module) -> Iterator[tuple[str, str]]:
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef
    for node in ast.walk(tree):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            yield getattr(node, "name", "module"), text


@pytest.mark.parametrize("file", FILES, ids=str)
def test_messages_begin_small_end_with_a_period_and_name_parameters(file):
    for line, text in messages(ast.parse((ROOT / file).read_text())):
        where = f"{file}:{line}: {text!r}"
        assert not text[:1].isupper() or NAMES.match(text), where
        assert text.rstrip().endswith((".", "?")) or text.endswith("{}") or "\n" in text, where
        assert file.parts[0] == "cli" or not FLAG.search(text), where


@pytest.mark.parametrize("file", FILES, ids=str)
def test_docstrings_say_if_and_mark_code_by_single_backticks(file):
    for name, text in docstrings(ast.parse((ROOT / file).read_text())):
        assert "``" not in text, f"{file}: {name}"
        for section in re.findall(r"^Raises:\n((?: +.*\n?)+)", text, re.M):
            for entry in re.findall(r"^    \w+: (.*)", section, re.M):
                assert entry.startswith(("If ", "Always")), f"{file}: {name}: {entry}"


# A number of them may be one. "1 of 1 images" is said; "images/s" is a rate.
COUNTED = re.compile(
    r"(?<! of )(?<! of the )(?<! of its )\{\} (different |labelled )?(annotations|batches|boxes|"
    r"classes|columns|epochs|files|images|keys|members|problems|processes|rows|shards|tensors|"
    r"weights)\b(?!/)"
)


@pytest.mark.parametrize("file", FILES, ids=str)
def test_what_may_be_one_is_in_the_plural_by_counted(file):
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.JoinedStr):
            assert not COUNTED.search(text_of(node)), f"{file}:{node.lineno}: {text_of(node)!r}"


@pytest.mark.parametrize("file", FILES, ids=str)
def test_arrays_name_their_kind(file):
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        hint = getattr(node, "annotation", None) or getattr(node, "returns", None)
        if hint is not None:
            assert not re.search(r"\bnp\.ndarray\b", ast.unparse(hint)), f"{file}:{node.lineno}"
