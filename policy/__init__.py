"""The policy of a stack: rules as functions of data, for the program itself and for a Pulumi policy pack."""
