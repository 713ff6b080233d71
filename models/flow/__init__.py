"""What all flow models share: targets, loss, integration, mask recovery."""
