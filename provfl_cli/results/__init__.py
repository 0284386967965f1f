"""The run folder: the names, formats and checksums of its files, written and read in one place."""
