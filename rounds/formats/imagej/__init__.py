"""ImageJ ROI files and ROI sets."""
