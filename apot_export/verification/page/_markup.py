"""HTML that cannot be broken by its data: every text is escaped unless it is `Markup`."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

_VOID = {"meta", "link", "img", "br"}
_BLOCKS = {"section", "header", "main", "div", "table", "thead", "tbody", "tfoot", "ul", "dl"}
"""Elements whose children stand on lines of their own."""


class Markup(str):
    """Text that is HTML already; anything made of it by string operations is not."""

    __slots__ = ()


def visible(text: str) -> str:
    r"""Return a text with everything that does not print spelled out.

    Names of files may hold line breaks, marks that reverse the reading direction, or bytes that are
    no text at all.

    >>> print(visible("cat\u202egnp.\udcff"))
    cat\u202egnp.\udcff
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def escape(text: str) -> Markup:
    """Return a text as HTML that shows it.

    >>> print(escape("<script>"), escape(Markup("<b>")))
    &lt;script&gt; <b>
    """
    if isinstance(text, Markup):
        return text
    return Markup(html.escape(visible(text), quote=True))


def joined(parts: Sequence[str], separator: str = "") -> Markup:
    """Return several texts as one piece of HTML."""
    return Markup(escape(separator).join(escape(part) for part in parts))


def tag(name: str, /, *children: str, **attributes: str | float | None) -> Markup:
    """Return an element; attributes that are None are left out, `_` becomes `-`.

    >>> print(tag("td", "a < b", class_="number", aria_label='"'))
    <td class="number" aria-label="&quot;">a &lt; b</td>
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_plain(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    line = "\n" if name in _BLOCKS and children else ""
    body = line.join(escape(child) for child in children)
    return Markup(f"<{name}{written}>{line}{body}{line}</{name}>")


def _plain(value: str | float) -> str:
    return value if isinstance(value, str) else f"{round(value, 3):g}"


# --- tables and lists -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table; numbers are aligned right."""

    title: str
    number: bool = True


def table(
    caption: str,
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    *,
    total: Sequence[str] | None = None,
    tall: bool = False,
) -> Markup:
    """Return a table in a container of its own that scrolls where the table is wider than the page.

    Args:
        caption: What the table shows.
        columns: One or more; the first one names the rows.
        rows: A cell per column each.
        total: A last row that sums up the others.
        tall: May have many rows: the container scrolls downwards, too.
    """
    head = tag("tr", *(_head(column) for column in columns))
    parts = [
        tag("caption", tag("span", caption)),
        tag("thead", head),
        tag("tbody", *(_row(columns, row) for row in rows)),
    ]
    if total is not None:
        parts.append(tag("tfoot", _row(columns, total)))
    return tag(
        "div",
        tag("table", *parts),
        class_="scroll tall" if tall else "scroll",
        tabindex=0,
        role="region",
        aria_label=caption,
    )


def _head(column: Column) -> Markup:
    return tag("th", column.title, scope="col", class_="number" if column.number else None)


def _row(columns: Sequence[Column], cells: Sequence[str]) -> Markup:
    first, *others = cells
    written = [tag("th", first, scope="row")]
    for column, cell in zip(columns[1:], others, strict=True):
        written.append(tag("td", cell, class_="number" if column.number else None))
    return tag("tr", *written)


def facts(pairs: Sequence[tuple[str, str]], class_: str = "facts") -> Markup:
    """Return (name, value) pairs as a description list."""
    return tag(
        "dl",
        *(tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs),
        class_=class_,
    )


def section(name: str, title: str, note: str, *content: str) -> Markup:
    """Return a section: a heading and a note that says how to read it, and what it shows.

    Args:
        name: What links to it say after `#`.
        title: The heading.
        note: Reading aid in plain words; may be Markup.
        content: The rest.
    """
    heading = tag("h2", title, id=f"{name}-title")
    return tag(
        "section",
        tag("div", heading, tag("p", note), class_="note"),
        tag("div", *content, class_="content"),
        id=name,
        aria_labelledby=f"{name}-title",
    )
