"""Several runs side by side: settings that differ, joined tables, reproductions of published figures."""
