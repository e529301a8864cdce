"""Image quality measures as pure functions, each with its protocol."""
