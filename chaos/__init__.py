"""Random faults and kills on a real stack with the emulator, repeatable by seed; see `python -m chaos --help`."""
