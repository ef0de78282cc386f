"""Code in the pages that people read, with the output that stands under it."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout

POINTS = 12  # by which a percentage may differ on another machine: four facts of the smallest test here, of 33


def with_output(text: str) -> list[tuple[str, str]]:
    """(code, output) of each ``python`` block in Markdown that is followed by a block without a language."""
    return re.findall(r"^```python\n(.*?)^```\n+^```\n(.*?)^```$", text, re.M | re.S)


def printed(code: str) -> str:
    """What code prints when it is run by itself."""
    with redirect_stdout(io.StringIO()) as out:
        exec(compile(code, "<page>", "exec"), {"__name__": "__main__"})
    return out.getvalue()


def assert_alike(output: str, told: str) -> None:
    """The same words; the same numbers, but for tuning that differs a little on another machine.

    A percentage may be ``POINTS`` points off, another number with a decimal point a fifth of itself or 0.05.
    """
    number = r"\d+(?:\.\d+)?"
    assert re.sub(number, "#", output) == re.sub(number, "#", told)
    for (found, _), (expected, percent) in zip(*(re.findall(rf"({number})( ?%)?", text) for text in (output, told)),
                                               strict=True):
        off = POINTS if percent else max(0.05, 0.2 * float(expected)) if "." in expected else 0
        assert abs(float(found) - float(expected)) <= off, f"{output}\ninstead of\n{told}"
