"""`python -m ops VERB`, also installed as `vast-reranker`: `--help` lists the verbs."""

from ops import deploy, destroy, drift, heal, metrics, orphans, preview, review, roll, rotate_key, status
from ops.command import cli

__all__ = ["cli", "deploy", "destroy", "drift", "heal", "metrics", "orphans", "preview", "review", "roll", "rotate_key"]
__all__ += ["status"]

if __name__ == "__main__":
    cli(prog_name="python -m ops")
