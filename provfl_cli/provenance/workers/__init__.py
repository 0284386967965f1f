"""Where the batches of a trace are computed: in this process, on forked ones, or on a Ray cluster."""
