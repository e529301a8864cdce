"""What every network shares: devices, process groups, weights of others; the one torch room."""
