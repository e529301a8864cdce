"""More images of the same people: pose transfer as a batch job."""
