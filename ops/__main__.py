"""`python -m ops VERB`, also installed as `vast-reranker`: `--help` lists the verbs."""

# a verb registers itself when it is imported
from ops import (  # noqa: F401
    deploy,
    destroy,
    drift,
    heal,
    logs,
    metrics,
    orphans,
    preview,
    recover,
    review,
    roll,
    rotate_key,
    status,
)
from ops.command import cli

if __name__ == "__main__":
    cli(prog_name="python -m ops")
