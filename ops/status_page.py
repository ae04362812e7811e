"""The HTML page of `ops status --html` and `--serve`. Pure. It loads no resources and contains no scripts."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from markdown_it import MarkdownIt  # a dependency of rich

STYLE = """
:root { color-scheme: light dark; --ok: #1a7f37; --bad: #cf222e; --line: #8884; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 75rem; margin: 0 auto; padding: 0 .75rem 2rem; }
section { border-left: .3rem solid var(--ok); padding-left: .75rem; margin: 1.5rem 0; overflow-wrap: anywhere; }
section.bad { border-color: var(--bad); }
h3 { margin: 0 0 .5rem; }
table { display: block; width: fit-content; max-width: 100%; overflow-x: auto; border-collapse: collapse;
  margin: .75rem 0; /* a shadow at the right edge while there is more to scroll to */
  background: linear-gradient(Canvas, Canvas) right / .75rem 100% no-repeat local,
    linear-gradient(to left, #8888, transparent) right / .75rem 100% no-repeat scroll; }
th, td { text-align: left; white-space: nowrap; padding: .25rem .6rem; border-bottom: 1px solid var(--line); }
ul { padding-left: 1.2rem; }
"""
# without the rules that create links
RENDERER = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["link", "image", "autolink"])


def page(sections: Iterable[tuple[bool, str]], at: datetime, refresh_s: int | None = None) -> str:
    """Return an HTML document of sections: whether all is well, and Markdown.

    `refresh_s`: a browser reloads the page after so many seconds.
    """
    refresh = f'\n<meta http-equiv="refresh" content="{refresh_s}">' if refresh_s else ""
    body = "\n".join(
        f'<section class="{"ok" if is_ok else "bad"}">\n{RENDERER.render(text)}</section>' for is_ok, text in sections
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">{refresh}
<title>Rerankers</title>
<style>{STYLE}</style>
</head>
<body>
<h1>Rerankers</h1>
<p>As of {at:%Y-%m-%d %H:%M} UTC.</p>
{body}
</body>
</html>
"""
