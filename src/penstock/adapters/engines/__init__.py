"""Inference engines: our own supervised llama.cpp worker, attached OpenAI servers, and an echo."""
