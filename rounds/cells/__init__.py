"""The cells of one image: instances, masks, run lengths, outlines, shape, matching."""
