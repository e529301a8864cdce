"""One file per pose-transfer system; the file name is the registry."""
