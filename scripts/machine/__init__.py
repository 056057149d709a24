"""What a program of the project needs of this machine: environments, packages, builds, and an end without traceback."""
