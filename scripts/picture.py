"""`make picture`: draw docs/demo.svg, a terminal with the end of `make demo`, from the demo's output on stdin."""

import io
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "demo.svg"
FIRST = "=== rerank with Cohere's client"
COLUMNS = 120


def main() -> int:
    """Print the output, and draw it from FIRST on."""
    lines = []
    for line in sys.stdin:
        sys.stdout.write(line)
        if lines or line.startswith(FIRST):
            lines.append(line.rstrip("\n"))
    if not lines:
        print(f"picture: the output does not contain {FIRST!r}: did the demo fail?", file=sys.stderr)
        return 1
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text("$ make demo", style="bold green"))
    for line in lines:
        console.print(Text(line, style="bold" if line.startswith("===") else ""))
    svg = console.export_svg(title="make demo")
    PICTURE.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL))  # no external resources
    return 0


if __name__ == "__main__":
    sys.exit(main())
