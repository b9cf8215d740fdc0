"""One file per family of models, and base classes for U-Nets and transformers."""
