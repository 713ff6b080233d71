"""Getting data in and out: open, split, clean, ingest, export, check."""
