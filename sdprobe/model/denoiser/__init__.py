"""Inside the denoiser: module hooks, attention calls, the layout of tokens, further calls."""
