"""Federations trained again without some of their clients: the truth that attributions are measured against."""
