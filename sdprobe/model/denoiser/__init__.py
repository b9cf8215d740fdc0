"""Inside the denoiser: module hooks, where tokens stand, further calls."""
