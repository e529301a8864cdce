"""Training a re-identification network: settings, recipes, losses, the loop."""
