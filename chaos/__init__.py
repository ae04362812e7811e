"""Random faults and kills against a real stack on the emulator, repeatable by seed; see `python -m chaos --help`."""
