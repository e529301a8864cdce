"""What synthetic images are worth: comparisons, studies, screening, statistics."""
