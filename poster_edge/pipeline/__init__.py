"""From a source of pictures to results: sources, stages, sinks.  Never imports torch."""
