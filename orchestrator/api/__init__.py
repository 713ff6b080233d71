"""The Python interface: what `import cellsemi` offers."""
