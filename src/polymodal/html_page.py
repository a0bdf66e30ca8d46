"""Pages of HTML that are complete in themselves: they ask for nothing outside and run no script.

page(title, note, body)     a document; its Content-Security-Policy allows its own style and pictures alone
escaped(text)               text of strangers, for a body and for an attribute
picture_tag(data, "jpeg")   a picture in the page itself
"""

from __future__ import annotations

import base64
import html

STYLE = """
:root { color-scheme: light dark; --line: #d5d8dd; --soft: #5c6470; --back: #fbfbfc; --card: #fff; }
@media (prefers-color-scheme: dark) { :root { --line: #3a3f47; --soft: #a4acb8; --back: #17191c; --card: #212429; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem; background: var(--back); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin: 0 0 .25rem; overflow-wrap: anywhere; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p { color: var(--soft); overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; } td { font-variant-numeric: tabular-nums; }
td, th { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line);
         overflow-wrap: anywhere; }
"""


def escaped(text: object) -> str:
    """Text for HTML, also in an attribute; bytes of a name that are no letters as a replacement mark."""
    return html.escape(str(text).encode("utf-8", "surrogateescape").decode("utf-8", "replace"))


def picture_tag(data: bytes, kind: str, alt: str = "") -> str:
    """data: a file of that kind, "png" or "jpeg"."""
    return f'<img alt="{escaped(alt)}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


def page(title: str, note: str, body: str, style: str = "") -> str:
    """The document.  note: a line below the title, as HTML; body: HTML; style: beside `STYLE`.

    Names stand apart from the text around them, whatever direction their letters have.
    """
    return f"""<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escaped(title)}</title>
<style>{STYLE}{style}</style>
<header><h1><bdi>{escaped(title)}</bdi></h1><p>{note}</p></header>
{body}</html>
"""
