"""Published checkpoint layouts that several systems share: a config dict in, an assembly and its key tables out."""
