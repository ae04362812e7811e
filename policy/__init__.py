"""What a stack may be: rules as functions of data, run inside the program and as a Pulumi policy pack alike.

`rules` judges `Facts` by `Limits` and knows no Pulumi. `components.settings` and the Instance resource call it before
anything is rented; `__main__` beside PulumiPolicy.yaml is the pack.
"""
