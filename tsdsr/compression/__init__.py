"""TinySR: fewer transformer blocks, a compact autoencoder, and no text or time at inference."""
