"""Writes docs/plug-it-into.md from reranker/applications.toml: `make docs`, or `python -m scripts.applications`.

tests/client/test_env.py fails if the page is out of date.
"""

from __future__ import annotations

from pathlib import Path

from reranker.applications import Application, read_applications

PAGE = Path(__file__).resolve().parents[1] / "docs" / "plug-it-into.md"
# the text above this head is written by hand in the page
HEAD = "| application | version | connection | tested |\n| --- | --- | --- | --- |\n"


def page() -> str:
    """Return docs/plug-it-into.md with the current applications."""
    introduction = PAGE.read_text(encoding="utf-8").partition(HEAD)[0]
    applications, rows = read_applications().values(), []
    for app in applications:
        rows.append(
            f"| [{app.title}](#{app.name}) | {app.version} | {app.connection} | {app.untested_reason or 'yes'} |\n"
        )
        rows += [f"| | {client} | {how} | {reason or 'yes'} |\n" for client, how, reason in app.other_clients]
    return introduction + HEAD + "".join(rows) + "".join(map(_section, applications))


def _section(app: Application) -> str:
    parts = [f"### {app.name}", f"```{app.language}\n{app.block.strip()}\n```"]
    if app.ca:
        parts.append(f"Without the proxy, the CA:\n\n```{app.language}\n{app.ca.strip(chr(10))}\n```")
    if app.proxy:
        parts.append(f"Needs the proxy: {app.proxy}.")
    if app.note:
        parts.append(app.note)
    return "\n" + "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
