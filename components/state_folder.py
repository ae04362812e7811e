"""The folder that holds a stack's state, where it is one, and whether it can take what an `up` writes.

Called by the program before anything is rented, and by `ops recover`. Pulumi 3.259 leaves a state file that it cannot
write to its end cut off: what was rented by then is in no state.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml

ROOM_MB = 16  # of the states of 128 servers: the file, its copy, and those of history and backups


def state_folder(env: Mapping[str, str], project: Path) -> Path | None:
    """Return the folder of a file backend, or None for any other. `project`: the folder of Pulumi.yaml."""
    home = Path(env.get("HOME") or Path.home())
    url = env.get("PULUMI_BACKEND_URL")
    if not url:
        declared = yaml.safe_load((project / "Pulumi.yaml").read_text(encoding="utf-8")).get("backend") or {}
        url = str(declared.get("url") or "") or _logged_in(Path(env.get("PULUMI_HOME") or home / ".pulumi"))
    where = urlsplit(url)
    if where.scheme != "file":
        return None
    path = where.netloc + unquote(where.path)
    return home / path[2:] if path.startswith("~/") else project / path


def _logged_in(pulumi_home: Path) -> str:
    try:
        return str(json.loads((pulumi_home / "credentials.json").read_text()).get("current") or "")
    except (OSError, ValueError, AttributeError):
        return ""


def room_problem(folder: Path) -> str:
    """Return why the state could not be written to its end, or "". Writes ROOM_MB once; nothing of it stays."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            for _ in range(ROOM_MB):
                probe.write(bytes(1 << 20))
    except OSError as error:
        return (
            f"the state's folder {folder} cannot take {ROOM_MB} MB: {error.strerror}. What an up rents would be in no "
            "state; make room there, or let it be written, and repeat"
        )
    return ""
