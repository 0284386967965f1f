"""A federation that learns handwritten digits, in Flower; every line that ProvFL asks for ends in `# ProvFL`."""
