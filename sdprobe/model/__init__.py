"""The model families. Only this folder (and sdprobe.shapes) imports diffusers and transformers."""
