"""What a training draws from: labelled rows, batches of them, controls, checks for leakage."""
