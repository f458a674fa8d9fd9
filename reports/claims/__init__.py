"""What the papers claim, as tests stated before looking: versioned data, judged on a board."""
