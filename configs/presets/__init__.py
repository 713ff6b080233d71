"""The presets: one YAML file each, read with importlib.resources by cellsemi.configs.config_files."""
