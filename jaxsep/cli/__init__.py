"""The command line: one file per subcommand, each with its options, one call and its printing."""
