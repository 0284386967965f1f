"""Localization metrics, each beside what chance scores (design section 5)."""
