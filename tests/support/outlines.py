"""Pages read as text: that their elements are closed, load nothing, and can be read aloud."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br", "!doctype"}


class Outline(HTMLParser):
    """Reads a document and checks that every element is closed where it was opened."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None], tuple[str, ...]]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        self.elements.append((tag, dict(attrs), tuple(self.open)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes, _ in self.elements if tag == name]


def assert_loads_nothing(page: str) -> None:
    """Check that a page has no script, and no address but its own places and data."""
    outline = Outline(page)
    addresses = [
        attributes[key]
        for _, attributes, _ in outline.elements
        for key in ("src", "href", "srcset", "action", "data")
        if key in attributes
    ]
    assert addresses
    assert all(str(address).startswith(("#", "data:")) for address in addresses)
    assert not outline.all("script")
    assert "@import" not in page
    assert "url(#hatch)" in page
    assert page.count("url(") == 1
    assert "//" not in "".join(str(address).partition(",")[0] for address in addresses)


def assert_readable(page: str) -> None:
    """Check that a page can be read aloud: names of drawings, tables and sections, no dead link."""
    outline = Outline(page)
    names = [attributes["id"] for _, attributes, _ in outline.elements if "id" in attributes]
    assert len(set(names)) == len(names)
    for attributes in outline.all("a"):
        assert str(attributes["href"])[1:] in names
    assert all(attributes.get("scope") in {"col", "row"} for attributes in outline.all("th"))
    assert all(attributes["alt"] for attributes in outline.all("img"))
    for attributes in outline.all("svg"):
        described = attributes.get("role") == "img" and attributes.get("aria-label")
        assert described or attributes.get("aria-hidden") == "true"
    assert len(outline.all("h1")) == 1
    assert len(outline.all("caption")) == len(outline.all("table"))
    assert len(outline.all("h2")) == len(outline.all("section"))
    assert outline.all("html") == [{"lang": "en"}]
