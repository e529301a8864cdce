"""The table format in which generated and real images meet; imports no torch."""
