"""What crosses between processes: wire and transport of a publish, answers of actors, spans; none of our packages."""
