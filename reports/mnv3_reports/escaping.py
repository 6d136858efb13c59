"""Text from elsewhere, made harmless: names and reasons come from networks, runtimes and measured code.

`plain` makes one line of a text for anywhere, `printable` keeps its lines, `inline` and `code` make it harmless in
markdown, `spreadsheet` in a table that a spreadsheet opens.
"""

from __future__ import annotations

import re
from unicodedata import category


def plain(text: str) -> str:
    """One line that can be printed anywhere: no line breaks, control, direction or surrogate characters.

    What is replaced would end a line, hide text, drive a terminal, or be refused by XML and UTF-8.
    """
    printable = (c if c.isprintable() or c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return " ".join("".join(printable).split())


def printable(text: str) -> str:
    """The same of a text of several lines, which stay, and so do spaces of any width."""
    if text.isprintable():
        return text
    kept = (c if c.isprintable() or c == "\n" or category(c) == "Zs" else _instead(c) for c in text)
    return "".join(kept)


def _instead(character: str) -> str:
    return " " if character.isspace() else "\N{REPLACEMENT CHARACTER}"


def spreadsheet(text: str) -> str:
    """One line that a spreadsheet takes for text: what begins like a formula gets an apostrophe before it.

    Source: owasp.org/www-community/attacks/CSV_Injection.
    """
    line = plain(text)
    return f"'{line}" if line.startswith(("=", "+", "-", "@")) else line


def inline(text: str) -> str:
    """Text that markdown shows as it is, in a paragraph as in a table: no markup, link, mention or issue reference.

    `layout.escape` changes nothing in it: bars and opening angle brackets are entities already. The text must not
    begin a line (as "1." or ">" would mean something there).
    """
    line = re.sub(r"([\\`*_\[\]~])", r"\\\1", plain(text).replace("&", "&amp;"))
    for character in "<|$":
        line = line.replace(character, f"&#{ord(character)};")
    # A zero-width space: GitHub looks for @name and #1 after entities were resolved.
    return re.sub(r"(?<![\w&])@(?=\w)|(?<!&)#(?=\d)", lambda sign: f"{sign[0]}&#8203;", line)


def code(text: str) -> str:
    """A name as a code span; as escaped text where it holds what would end the span or a table's cell."""
    line = plain(text)
    if not line:
        return "(empty)"
    return inline(line) if set(line) & set("`<|") else f"`{line}`"
