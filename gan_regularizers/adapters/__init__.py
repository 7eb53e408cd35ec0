"""What the patches of the upstream repositories import; nothing else in the package does."""
