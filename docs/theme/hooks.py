"""What mkdocs-click leaves undone: examples in the help of commands are set as code."""

import re
from textwrap import dedent
from typing import Any


def on_page_content(html: str, **_: Any) -> str:
    """Return a page with its examples as blocks."""
    return re.sub(
        r"<p>(Examples?:)\n(.*?)</p>",
        lambda found: f"<p>{found[1]}</p>\n<pre><code>{dedent(found[2])}\n</code></pre>",
        html,
        flags=re.S,
    )
