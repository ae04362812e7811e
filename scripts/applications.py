"""Writes docs/plug-it-into.md from reranker/applications.toml: `make docs`, or `python -m scripts.applications`.

tests/client/test_env.py says where the page is not what it should be.
"""

from __future__ import annotations

from pathlib import Path

from reranker.applications import Application, read_applications

PAGE = Path(__file__).resolve().parents[1] / "docs" / "plug-it-into.md"
# the text above the table is edited in the page itself
MADE = "| application | version | connection | tested |\n| --- | --- | --- | --- |\n"


def page() -> str:
    """Return docs/plug-it-into.md with the applications of today in it."""
    written = PAGE.read_text(encoding="utf-8").partition(MADE)[0]
    applications = read_applications().values()
    rows = [
        row
        for one in applications
        for row in (
            f"| [{one.title}](#{one.name}) | {one.version} | {one.connection} | {one.untested_reason or 'yes'} |",
            *(f"| | {client} | {connection} | {reason or 'yes'} |" for client, connection, reason in one.other_clients),
        )
    ]
    return written + MADE + "\n".join(rows) + "\n" + "".join(map(_section, applications))


def _section(one: Application) -> str:
    parts = [f"### {one.name}", f"```{one.language}\n{one.block.strip()}\n```"]
    if one.ca:
        parts.append(f"Without the proxy, the CA:\n\n```{one.language}\n{one.ca.strip(chr(10))}\n```")
    if one.proxy:
        parts.append(f"Needs the proxy: {one.proxy}.")
    if one.note:
        parts.append(one.note)
    return "\n" + "\n\n".join(parts) + "\n"


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
