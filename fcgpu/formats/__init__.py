"""File formats of models. Files are written atomically, and nothing is unpickled."""
