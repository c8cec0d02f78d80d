"""Tables for papers, in LaTeX with booktabs."""

from __future__ import annotations

import re

from apot_export.errors import visible
from apot_export.presentation.tables import Column, View, fitting

_ESCAPED = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
}
_WIDEST = 100
"""Characters of a row in small print across a page."""
_MOST_ROWS = 45
"""Of a table on one page; longer ones break."""
_GAP = 2

PREAMBLE = r"""% Needs in the preamble: \usepackage[utf8]{inputenc} \usepackage{booktabs,longtable}
"""


def escaped(text: str) -> str:
    r"""Return a text as LaTeX prints it.

    >>> print(escaped("conv_1 & 50%"))
    conv\_1 \& 50\%
    """
    return "".join(_ESCAPED.get(mark, mark) for mark in visible(text))


def latex_table(view: View, caption: str) -> str:
    """Return a table that is as wide as a page at most: columns that do not fit are left out.

    Drawn columns are none of it. A table of many rows breaks over pages.
    """
    columns = [column for column in view.columns if column.draw is None]
    cells = [[_cell(column, row[column.key]) for column in columns] for row in view.rows]
    widths = [
        max(map(len, (column.title, *(row[place] for row in cells))))
        for place, column in enumerate(columns)
    ]
    kept = fitting(columns, widths, _GAP, _WIDEST)
    head = _line([escaped(columns[place].title) for place in kept])
    rows = [_line([_shown(columns[place], row[place], place) for place in kept]) for row in cells]
    form = "".join("l" if columns[place].left else "r" for place in kept)
    title = f"\\caption{{{escaped(caption)}}}"
    if len(rows) > _MOST_ROWS:
        repeated = ["\\toprule", head, "\\midrule"]
        lines = [
            *(f"\\begin{{longtable}}{{{form}}}", title + r"\\", *repeated, r"\endfirsthead"),
            *(*repeated, r"\endhead", r"\bottomrule", r"\endfoot", *rows, r"\end{longtable}"),
        ]
        return "\n".join(["{\\footnotesize", *lines, "}"]) + "\n"
    lines = [
        *(r"\begin{table*}", r"\centering\footnotesize", title, f"\\begin{{tabular}}{{{form}}}"),
        *(r"\toprule", head, r"\midrule", *rows, r"\bottomrule"),
        *(r"\end{tabular}", r"\end{table*}"),
    ]
    return "\n".join(lines) + "\n"


def _cell(column: Column, value: object) -> str:
    return "" if value is None else column.show(value)


def _shown(column: Column, text: str, place: int) -> str:
    if column.left or place == 0:
        return escaped(text)
    return re.sub(r"(?<![\w.])-|(?<=e)-", "$-$", escaped(text))


def _line(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"
