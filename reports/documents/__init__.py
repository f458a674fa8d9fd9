"""From results to documents: what a board, a study, a ledger or a comparison looks like in any format."""
