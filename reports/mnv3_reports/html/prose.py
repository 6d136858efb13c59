"""The report's markdown as HTML. Of the markup in it only what the report itself writes passes."""

from __future__ import annotations

import html
import re
from functools import cache
from typing import TYPE_CHECKING, Any

from mnv3_reports.escaping import printable

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

_TAG = re.compile(r"</?(?:details|summary|sup)>|<br>|[<>]")
"""What may stand for itself, and what is escaped otherwise."""


def to_html(markdown: str) -> str:
    """Render markdown; any tag but those without attributes that the report writes is shown as text."""
    return str(_renderer().render(printable(markdown)))


@cache
def _renderer() -> MarkdownIt:
    from markdown_it import MarkdownIt

    renderer = MarkdownIt("commonmark", {"html": True}).enable("table")
    renderer.add_render_rule("html_block", _harmless)
    renderer.add_render_rule("html_inline", _harmless)
    renderer.add_render_rule("table_open", lambda *_: '<div class="wide"><table>')
    renderer.add_render_rule("table_close", lambda *_: "</table></div>")
    renderer.add_render_rule("image", lambda *_: "")  # the page has its own charts
    return renderer


def _harmless(_renderer: Any, tokens: Any, index: int, *_: Any) -> str:
    content: str = tokens[index].content
    return _TAG.sub(lambda found: found[0] if len(found[0]) > 1 else html.escape(found[0]), content)
