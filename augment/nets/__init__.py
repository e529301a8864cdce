"""Building blocks shared by several generators."""
