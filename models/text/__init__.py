"""From a prompt to what a UNet attends to: tokenizer, CLIP text encoders, and their rules."""
