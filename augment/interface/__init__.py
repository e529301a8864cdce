"""What a pose-transfer system is: its conditions, its forward pass, its training schedule."""
