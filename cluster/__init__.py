"""Everything that starts the two halves: the set-up of a machine, the demo, launch files, scale-out experiments."""
