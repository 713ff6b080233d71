"""What several formats need: folders, CSV and JSON files, overlaps, one file an image."""
