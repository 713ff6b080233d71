"""Training crops: sampling, augmentation, copy-paste, normalisation."""
