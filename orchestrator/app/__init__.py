"""The app in the browser: cells of an image under limits that move, pseudo-labels, marks."""
