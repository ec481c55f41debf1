"""Takes a GAN generator that was pruned while it trained to a phone, and proves it."""

__version__ = "0.1.0"
