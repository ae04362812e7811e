"""Pulumi's Automation API: create or select a stack, set config, up, read outputs, destroy.

python examples/automation.py NAME [KEY=VALUE ...]
"""

import sys
from pathlib import Path

from pulumi import automation

project = Path(__file__).resolve().parents[1] if not Path("Pulumi.yaml").exists() else Path.cwd()
name, *settings = sys.argv[1:]
stack = automation.create_or_select_stack(name, work_dir=str(project))
for key, value in (setting.split("=", 1) for setting in settings):
    stack.set_config(key, automation.ConfigValue(value))
outputs = stack.up(on_output=print, color="never").outputs
print(f"{outputs['model'].value} at {outputs['url'].value}, ${outputs['hourly_cost_usd'].value['total']:.4f}/h")
stack.destroy(on_output=print, color="never")
