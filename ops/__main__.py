"""`python -m ops VERB`, also installed as `vast-reranker`: `--help` lists the verbs."""

import importlib
import pkgutil

import ops
from ops.command import cli

# a verb registers itself when its module is imported
for module in pkgutil.iter_modules(ops.__path__, "ops."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)

if __name__ == "__main__":
    cli(prog_name="python -m ops")
