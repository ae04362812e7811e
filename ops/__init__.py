"""What people and pipelines run around `pulumi`. Each script has --help, and exit codes that mean one thing."""
