"""The pack's program, started by the engine: `pulumi preview --policy-pack policy`. Serves until the engine ends it."""

import sys
from pathlib import Path

# the engine runs this folder, not the package
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pulumi_policy import PolicyPack

from policy.pack import policies

PolicyPack(name="vast-reranker", policies=policies())
