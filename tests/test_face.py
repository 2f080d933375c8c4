"""`import ccrop_pipeline as ccrop`: what a person types, lazily, and nothing else."""

import inspect
import re
import subprocess
import sys

import pytest

import ccrop_pipeline as ccrop

# What design and README promise.
NAMES = {
    "AugmentSettings", "BoxRule", "BoxSet", "BoxedDataset", "BoxedViews", "CcropError",
    "ContrastiveCrop", "Localizer", "ViewGroup", "ViewLoader", "add_boxes", "attach_box",
    "audit", "compute_boxes", "embed", "import_boxes", "load_recipe", "open_encoder",
    "open_source", "pack", "report_boxes", "report_run", "rethreshold", "train", "validate",
}  # fmt: skip


def told_by(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.slow
def test_it_shows_its_names_and_nothing_else():
    shown = told_by("import ccrop_pipeline as ccrop, ccrop_pipeline.views; print(*dir(ccrop))")
    assert set(shown) == {*NAMES, "__version__"} == {*ccrop.__all__, "__version__"}


@pytest.mark.slow
def test_each_name_resolves_whatever_was_imported_before():
    modules = {getattr(ccrop, name).__module__ for name in NAMES}
    assert all(getattr(ccrop, name).__name__ == name for name in NAMES)
    code = f"import ccrop_pipeline as ccrop, {', '.join(sorted(modules))}\n"
    # A module of the name of a function would hide it.
    assert told_by(f"{code}print(*(n for n in ccrop.__all__ if callable(getattr(ccrop, n))))") == (
        ccrop.__all__
    )


def test_what_is_not_there_is_no_attribute():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ccrop.nothing


def test_importing_it_imports_nothing_else():
    before, after = (
        {module.split(".")[0] for module in told_by(f"{code}import sys; print(*sys.modules)")}
        for code in ("", "import ccrop_pipeline as ccrop, typing, importlib; dir(ccrop); ")
    )
    outside = {name for name in after - before if name not in sys.stdlib_module_names}
    assert outside == {"ccrop_pipeline"}


@pytest.mark.parametrize(
    ("name", "absent"),
    [
        ("CcropError", {"numpy", "torch"}),
        ("BoxSet", {"torch", "PIL"}),
        ("load_recipe", {"torch", "pyarrow"}),
        ("open_source", {"torch"}),
    ],
)
def test_a_light_name_brings_nothing_heavy(name, absent):
    loaded = told_by(f"import sys, ccrop_pipeline as ccrop; ccrop.{name}; print(*sys.modules)")
    assert not absent & set(loaded)


def parameters(name):
    found = getattr(ccrop, name)
    taken = [*inspect.signature(found).parameters.values()]
    if inspect.isclass(found):
        for method, function in vars(found).items():
            if not method.startswith("_") and callable(getattr(found, method)):
                function = getattr(function, "__func__", function)
                taken += [*inspect.signature(function).parameters.values()][1:]
    return [parameter for parameter in taken if parameter.kind is not parameter.VAR_KEYWORD]


def positional(function):
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p for p in inspect.signature(function).parameters.values() if p.kind in kinds]


# RandomResizedCrop's five, in its order; the error takes its message.
@pytest.mark.parametrize("name", sorted(NAMES - {"ContrastiveCrop", "CcropError"}))
def test_arguments_are_keywords_from_the_third_or_fourth_on(name):
    found = getattr(ccrop, name)
    assert len(positional(found)) <= 3


@pytest.mark.parametrize("name", sorted(NAMES - {"ContrastiveCrop", "CcropError"}))
def test_no_truth_value_is_given_by_position(name):
    found = getattr(ccrop, name)
    own = (found, *(getattr(found, method) for method in vars(found) if method[0] != "_"))
    functions = own if inspect.isclass(found) else (found,)
    for function in functions:
        if callable(function):
            wrong = [p.name for p in positional(function) if "bool" in str(p.annotation)]
            assert not wrong, function


@pytest.mark.parametrize("name", sorted(NAMES - {"CcropError"}))
def test_paths_and_devices_may_be_strings(name):
    for parameter in parameters(name):
        kind = inspect.formatannotation(parameter.annotation)
        if re.search(r"\bPath\b|\bdevice\b", kind):
            assert re.search(r"\bstr\b", kind), parameter
