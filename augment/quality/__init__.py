"""Image quality: metrics as pure functions, each with its protocol, and contact sheets."""
