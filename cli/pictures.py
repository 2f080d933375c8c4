"""Pictures in terminals that can show them, by the protocol that each of them speaks."""

import base64
import io
import re
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from PIL import Image

Protocol = Literal["kitty", "iterm", "sixel"]
_CELL = 8  # pixels that a column is taken to have
_CHUNK = 4096  # the most base64 in one escape, by kitty's specification
_COLOURS = 64


def protocol(environment: Mapping[str, str]) -> Protocol | None:
    """Return how the terminal takes pictures, by its environment; None where it cannot be told.

    Nothing is asked of the terminal: an answer would be left to the shell that comes next.
    """
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    # Multiplexers hand on the variables of the terminal outside, and not its pictures.
    if "TMUX" in environment or "STY" in environment or term.startswith(("screen", "tmux")):
        return None
    if term in ("xterm-kitty", "xterm-ghostty") or program == "ghostty":
        return "kitty"
    if program in ("iTerm.app", "WezTerm") or environment.get("LC_TERMINAL") == "iTerm2":
        return "iterm"
    return "sixel" if term.startswith(("foot", "mlterm")) or "sixel" in term else None


def draw(picture: "Image.Image", how: Protocol) -> str:
    """Return what draws a picture at the terminal's width, or at its own where that is less."""
    columns = min(shutil.get_terminal_size().columns, -(-picture.width // _CELL))
    if how == "sixel":
        width = min(picture.width, columns * _CELL)
        return sixel(picture.resize((width, picture.height * width // picture.width))) + "\n"
    file = io.BytesIO()
    picture.save(file, "PNG")
    return (kitty if how == "kitty" else iterm)(file.getvalue(), columns) + "\n"


def kitty(png: bytes, columns: int) -> str:
    """See https://sw.kovidgoyal.net/kitty/graphics-protocol/."""
    text = base64.b64encode(png).decode()
    parts = [text[start : start + _CHUNK] for start in range(0, len(text), _CHUNK)]
    # q=2, in every part: no answer, which the shell would take as typed.
    heads = [f"a=T,f=100,c={columns},q=2", *["q=2"] * (len(parts) - 1)]
    more = [1] * (len(parts) - 1) + [0]
    return "".join(f"\x1b_G{h},m={m};{p}\x1b\\" for h, m, p in zip(heads, more, parts, strict=True))


def iterm(png: bytes, columns: int) -> str:
    """See https://iterm2.com/documentation-images.html."""
    told = f"inline=1;size={len(png)};width={columns};preserveAspectRatio=1"
    return f"\x1b]1337;File={told}:{base64.b64encode(png).decode()}\a"


def sixel(picture: "Image.Image") -> str:
    """See https://vt100.net/docs/vt3xx-gp/chapter14.html."""
    import numpy as np

    reduced = picture.convert("RGB").quantize(_COLOURS)
    palette = (np.array(reduced.getpalette(), np.int64).reshape(-1, 3) * 100 + 127) // 255
    lines = [f'\x1bP0;1q"1;1;{picture.width};{picture.height}']
    lines += [f"#{i};2;{r};{g};{b}" for i, (r, g, b) in enumerate(palette.tolist())]
    pixels = np.asarray(reduced)
    for top in range(0, len(pixels), 6):
        band = pixels[top : top + 6]
        bits = 1 << np.arange(len(band))
        for colour in np.unique(band).tolist():
            signs = bytes((bits @ (band == colour) + 63).astype(np.uint8)).decode()
            runs = re.sub(r"(.)\1{3,}", lambda run: f"!{len(run[0])}{run[1]}", signs)
            lines.append(f"#{colour}{runs}$")
        lines.append("-")
    return "".join(lines) + "\x1b\\"
