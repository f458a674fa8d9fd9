"""Language-model heads, streamed in tiles: values and gradients without (batch, time, vocabulary)."""
