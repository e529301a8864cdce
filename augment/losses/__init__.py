"""Training losses shared by several generators."""
