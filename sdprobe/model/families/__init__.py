"""One file for each family of models, and what U-Nets and transformers share."""
