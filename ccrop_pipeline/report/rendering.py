"""From findings and figures to one HTML file that opens from disk and asks for nothing else."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from ccrop_pipeline.base.files import output_file
from ccrop_pipeline.errors import duration, printable
from ccrop_pipeline.report.audit import Audit
from ccrop_pipeline.report.verdict import UNKNOWN, WORTH

_LEVELS = ("bad", "note", "good")


@dataclass(frozen=True)
class Finding:
    """What a reader should know first.

    Attributes:
        level: `bad`, `note` or `good`.
        title: In a few words.
        text: A sentence or two; backticks stand around what is typed.
        show: The filter of the gallery with the images it is about, such as `status=empty`, or
            their order, such as `sort=moved`; `sort=` for all of them.
    """

    level: str
    title: str
    text: str
    show: str | None = None


def gravest_first(findings: list[Finding]) -> list[Finding]:
    """Return findings by their level, equal ones in their order."""
    return sorted(findings, key=lambda finding: _LEVELS.index(finding.level))


def verdict_finding(judged: Audit, boxes: str = "these boxes") -> Finding:
    """Return the verdict of an audit, of boxes that are called so."""
    level = {WORTH: "good", UNKNOWN: "note"}.get(judged.verdict, "bad")
    title = {
        WORTH: f"{boxes} follow the image",
        UNKNOWN: f"nothing tells yet whether {boxes} follow the image",
    }.get(judged.verdict, f"{boxes} {judged.verdict}")
    text = sentence(judged.reason, judged.advice)
    return Finding(level, sentence(title), text, _behind(judged) if judged.images else None)


def _behind(judged: Audit) -> str:
    """Return the filter of the gallery with the images that a verdict is about."""
    if judged.verdict in (WORTH, UNKNOWN):
        return "sort="  # all of them
    if judged.empty + judged.unreadable >= 0.5:
        return f"status={'unreadable' if judged.unreadable > judged.empty else 'empty'}"
    return "sort=large" if judged.nearly_full > 0.5 else "sort=alike"


def sentence(*parts: str | None) -> str:
    """Join what is there, and begin it with a capital letter."""
    text = " ".join(filter(None, parts))
    return text[:1].upper() + text[1:]


def write_page(
    target: Path, template: str, scripts: Sequence[str], *, overwrite: bool, **values: Any
) -> Path:
    """Fill a template and write it.

    Args:
        target: The file.
        template: A file of the folder `page`.
        scripts: Files of it that make up the script, in order.
        overwrite: Whether it replaces a file that is there.
        values: What the template names.

    Raises:
        TargetTakenError: If the file is there with other content, and may not be replaced.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        loader=PackageLoader("ccrop_pipeline.report", "page"),
    )
    percent = "{:.1%}".format
    environment.filters |= {"typed": _typed, "percent": percent, "duration": duration}
    page = files("ccrop_pipeline.report") / "page"
    css = (page / "page.css").read_text("utf-8")
    js = "".join((page / name).read_text("utf-8") for name in scripts)
    text = environment.get_template(template).render(css=css, js=js, **values)
    with output_file(target, overwrite=overwrite) as aside:
        aside.write_text(text, encoding="utf-8")
    return target


def lines_of_json(value: Any) -> str:
    """Return JSON for people to read, a field a line."""
    return "\n".join(map(printable, json.dumps(value, indent=2).split("\n")))


def script_json(value: Any) -> Any:
    """Return JSON that may stand in a script element whatever it holds.

    https://html.spec.whatwg.org/multipage/scripting.html#restrictions-for-contents-of-script-elements
    """
    from markupsafe import Markup

    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for character in "<>&":  # all else that matters json has escaped
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _typed(text: str) -> Any:
    """Escape a sentence, and set what is in backticks as code."""
    from markupsafe import Markup, escape

    parts = text.split("`")
    marked = [
        Markup("<code>{}</code>").format(part) if at % 2 and at < len(parts) - 1 else escape(part)
        for at, part in enumerate(parts)
    ]
    return Markup("").join(marked)
