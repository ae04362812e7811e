"""What a stack may be: rules as functions of data, run inside the program and as a Pulumi policy pack alike."""
