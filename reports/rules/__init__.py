"""Fair-comparison rules: versioned data, applied to runs by ``kdbench check`` and by the board."""
