"""What every command shares: command line, console, settings, storage, run record."""
