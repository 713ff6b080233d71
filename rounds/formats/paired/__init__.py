"""Images beside annotation files of their own."""
