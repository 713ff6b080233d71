"""The flow U-Net: a compact network trained from scratch."""
