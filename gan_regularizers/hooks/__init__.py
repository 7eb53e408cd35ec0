"""What ``wrap`` puts on a discriminator."""
