"""The twins: our networks in other frameworks, one file per family. Each needs its framework, so import them singly."""
