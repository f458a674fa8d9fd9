"""What only a CPU needs: products by precision, attention by sequence, a Llama step of few operations."""
