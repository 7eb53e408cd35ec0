"""The demo: one small GAN on few real images, without and with the regularizers, side by side."""
