"""What systems are trained for: losses, and the objectives that two systems share."""
