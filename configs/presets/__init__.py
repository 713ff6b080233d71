"""The presets: one YAML file each, read by preset_files; and the figures of the reports that some come from."""
