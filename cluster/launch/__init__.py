"""Launch files: templates, the configuration that fills them, and the checks of what comes out."""
