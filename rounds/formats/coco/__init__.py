"""COCO JSON: reader, writer, index by byte offset, segmentations."""
