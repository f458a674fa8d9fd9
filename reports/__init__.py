"""Boards, tables and statistics: pure functions of finished run folders."""
