"""Readers and writers of data sets: a folder of crops to an images table and back."""
