"""The table format in which generated and real images meet; imports no torch."""

__version__ = "0.1.0"
