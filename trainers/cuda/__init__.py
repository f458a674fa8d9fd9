"""What only a GPU needs. Callers look at the device first, so a CPU never enters here."""
