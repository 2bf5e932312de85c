"""The sample model with its card, ImageNet's class names, and the licences of all that they come from."""
