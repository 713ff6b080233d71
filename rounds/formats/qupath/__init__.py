"""QuPath GeoJSON."""
