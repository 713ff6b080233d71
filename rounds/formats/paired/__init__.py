"""Images that each have an annotation file: reader and detection."""
