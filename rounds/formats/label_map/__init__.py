"""Label maps and class files: one file of integers an image."""
