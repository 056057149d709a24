"""What maintainers run: each file a program with --help; asset_build is the build itself."""
