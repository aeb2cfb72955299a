"""What can be set, and how the command line becomes typed settings."""
