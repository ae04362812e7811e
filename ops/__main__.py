"""`python -m ops VERB`, also installed as `vast-reranker`: `--help` lists the verbs."""

import importlib
import os
import pkgutil
import sys

import ops

try:
    from ops.command import cli

    # a verb registers itself when its module is imported
    for module in pkgutil.iter_modules(ops.__path__, "ops."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
except ImportError as error:
    if not os.environ.get("PYTHONPATH"):
        raise
    sys.exit(f"error: {error}; PYTHONPATH hides packages of this project: `unset PYTHONPATH`, then run again")

if __name__ == "__main__":
    cli(prog_name="python -m ops")
