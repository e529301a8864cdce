"""Pages that people look at: one HTML file each, with tables, figures and pictures in it."""
