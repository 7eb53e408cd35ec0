"""What the package reads, writes and says: files, images, plots, the terminal, options and their errors."""
