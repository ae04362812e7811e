"""The commands that people and pipelines run around `pulumi`: `python -m ops VERB`. Each exit code has one meaning."""
