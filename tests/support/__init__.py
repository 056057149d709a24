"""What several tests use: servers, files of the wrong kind, processes to kill."""
