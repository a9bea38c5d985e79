"""Looking into models: sizes and operations. It imports config, support and models."""
