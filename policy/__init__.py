"""The policy of stacks: rules as functions of data, run inside the program and as a Pulumi policy pack.

`rules` judges `Facts` by `Limits` and knows no Pulumi. `components.settings` and the Instance resource call it before
anything is rented; `__main__` beside PulumiPolicy.yaml is the pack.
"""
